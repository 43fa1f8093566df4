"""Ours without the hot path: every request goes through Flask."""

from __future__ import annotations

import os

from app import create_app

app = create_app(os.environ["MODEL"], hot=False)
