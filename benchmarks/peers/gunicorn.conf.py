"""The product's own gunicorn settings, with another application, which $BENCHMARK_APP names."""

from __future__ import annotations

import os
import runpy

globals().update(runpy.run_path("gunicorn.conf.py"))
wsgi_app = os.environ["BENCHMARK_APP"]
