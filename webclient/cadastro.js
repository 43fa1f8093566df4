// Fills in the category of the product form from its title and description, and checks the form.

/**
 * @typedef {{categoria: Category, confianca: number | null, incerto: boolean | null,
 *   alternativas: {categoria: Category}[] | null, palavras: {palavra: string, peso: number}[] | null}} Answer
 * @typedef {string | number | boolean} Category as the model's author has called it
 * @typedef {{body: string, controller: AbortController, done?: Promise<void>}} Question
 */

const PAUSE_MS = 600; // longer than the gaps of slow typing on a phone, shorter than what feels like a wait
const TIMEOUT_MS = 10_000;
const LONGEST_PRESS_MS = 1000;
const LONGEST_RETRY_S = 30; // by then the seller has chosen the category himself

const API = document.querySelector("meta[name=api]").content;
const form = document.querySelector("form");
const { titulo, descricao, categoria } = form.elements;
const [status, busy, suggestions, result, categories] =
  ["estado", "ocupado", "sugestoes", "resultado", "categorias"].map((id) => document.getElementById(id));

// No maxlength: it cuts a pasted text without a word, and counts UTF-16 units where the API counts code points.
const LIMIT = { titulo: 500, descricao: 20_000, categoria: Infinity };
const MISSING = {
  titulo: "Escreva o título.",
  descricao: "Escreva a descrição.",
  categoria: "Escolha ou escreva a categoria.",
};
// For answers that do not say themselves what is wrong: a cloud's router, a café's login page.
// They count for the model, and say nothing to a seller.
const NO_REASON = /^([dn]?[ao]s?|com|de|e|em|ou|para|por|que|sem|uma?|\d[\d.,]*)$/;
const EXPLANATION = {
  200: "O servidor deu uma resposta que esta página não entende.",
  413: "O texto é grande demais para o servidor.",
  429: "Houve pedidos demais em pouco tempo.",
  503: "O servidor está ocupado.",
};

const state = {
  /** Whether the category is the seller's own and so never overwritten; else it is empty or ours. */
  typed: categoria.value.trim() !== "", // a browser may bring back what was there before a reload
  /** @type {Question | null} */ asking: null,
  /** @type {{body: string, answer: Answer} | null} */ answered: null,
  /** @type {Answer | null} The answer that the page shows now. */ shown: null,
  /** @type {string | null} The body that failed: not asked again before an edit. */ failed: null,
  /** @type {string | null} The body that has had its one retry. */ retried: null,
  /** Of the pause or of the retry: an edit ends both. */ timer: 0,
  /** Done once no press is under way: what moves from under one would swallow it. */ released: Promise.resolve(),
};

class ApiError extends Error {
  /** @param {number} retryAfter in seconds, NaN where the server names none */
  constructor(message, retryAfter) {
    super(message);
    this.retryAfter = retryAfter;
  }
}

/** The request for the text as it is now; "" where there is no text. */
function questionBody() {
  const [title, description] = [titulo.value.trim(), descricao.value.trim()];
  if (!title && !description) return "";
  // The API insists on a description: until there is one the title stands in for it.
  return JSON.stringify(description ? { titulo: title || undefined, descricao: description } : { descricao: title });
}

/** Bring the category up to date with the text, where it is ours; done when there is nothing left to wait for. */
async function suggest() {
  const body = questionBody();
  if (state.typed || body === state.failed) return;
  if (body === state.asking?.body) return state.asking.done;
  cancel();
  if (!body) {
    setCategory("");
    clearSuggestion();
  } else if (body === state.answered?.body) showAnswer(state.answered.answer);
  else if ([titulo, descricao].some((field) => lengthOf(field) > LIMIT[field.id])) {
    showError("O texto é longo demais para sugerir a categoria.");
  } else {
    state.asking = { body, controller: new AbortController() };
    return (state.asking.done = ask(state.asking));
  }
}

/** @param {Question} question */
async function ask(question) {
  const { body, controller } = question;
  const timer = setTimeout(() => controller.abort(new DOMException("no answer", "TimeoutError")), TIMEOUT_MS);
  setBusy(true);
  const [answer, error] = await fetchAnswer(body, controller.signal).then((it) => [it, null], (it) => [null, it]);
  clearTimeout(timer);
  await state.released;
  if (state.asking !== question) return; // late: the text has changed since
  state.asking = null;
  setBusy(false);
  if (error) return fail(body, error);
  state.answered = { body, answer };
  showAnswer(answer);
}

/** @returns {Promise<Answer>} */
async function fetchAnswer(body, signal) {
  const response = await fetch(`${API}/api/predizer_categoria?detalhes=1`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body, signal,
  });
  const answer = await response.json().catch((error) => {
    if (error instanceof SyntaxError) return null; // not JSON
    throw error; // the connection broke, or the time is up
  });
  if (response.ok && ["string", "number", "boolean"].includes(typeof answer?.categoria)) return answer;
  const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  const mayRetry = response.status === 429 || response.status === 503;
  throw new ApiError(
    (isProblem && answer?.detail) || EXPLANATION[response.status] || `O servidor deu um erro (${response.status}).`,
    mayRetry ? parseInt(response.headers.get("Retry-After"), 10) : NaN,
  );
}

/** Say why there is no answer, and plan the one retry where the server names a time for it. */
function fail(body, error) {
  state.failed = body;
  let text = "Não foi possível falar com o servidor. Confira a conexão.";
  if (error instanceof ApiError) text = error.message;
  if (error.name === "TimeoutError") text = "O servidor demorou demais para responder.";
  text += categoria.value ? " Confira a categoria." : " Você pode escolher a categoria.";
  if (error.retryAfter >= 0 && state.retried !== body) {
    const seconds = Math.min(Math.max(error.retryAfter, 1), LONGEST_RETRY_S);
    text += ` Nova tentativa em ${seconds} s.`;
    state.retried = body;
    state.timer = setTimeout(() => { state.failed = null; suggest(); }, seconds * 1000);
  }
  showError(text);
}

function cancel() {
  clearTimeout(state.timer);
  state.asking?.controller.abort();
  state.asking = null;
  setBusy(false);
}

/** @param {Answer} answer */
function showAnswer(answer) {
  if (answer === state.shown) return; // a new button under the thumb that presses the old one would swallow the press
  state.shown = answer;
  const others = answer.incerto ? answer.alternativas ?? [] : [];
  setCategory(answer.incerto ? "" : answer.categoria);
  setSuggestions(others.length ? [answer, ...others] : []);
  if (!answer.incerto) say(reason(answer), `Categoria ${answer.categoria}. `);
  else if (others.length) say("Não tenho certeza. Escolha uma destas ou escreva outra:");
  else say("Não reconheci este produto. Escreva a categoria.");
}

/** @param {Answer} answer */
function reason({ confianca, palavras }) {
  const words = (palavras ?? []).filter(({ palavra, peso }) => peso > 0 && !NO_REASON.test(palavra))
    .slice(0, 3).map(({ palavra }) => palavra);
  const from = ["pelo texto", "pela palavra: "][words.length] ?? "pelas palavras: ";
  const percent = Math.min(confianca ?? 0, 0.99).toLocaleString("pt-BR", { style: "percent" }); // never a sure 100%
  return `Sugerida ${from}${words.join(", ")}${confianca === null ? "" : ` (${percent} de confiança)`}`;
}

function showError(text) {
  clearSuggestion();
  say(text);
  status.className = "error";
}

function clearSuggestion() {
  state.shown = null;
  setSuggestions([]);
  say("");
}

/** @param {string} spoken is for who cannot see what the field has been filled with */
function say(text, spoken = "") {
  status.className = "";
  if (status.textContent === spoken + text) return; // set anew, a screen reader would read the same again
  const hidden = document.createElement("span");
  hidden.className = "spoken";
  hidden.textContent = spoken;
  status.replaceChildren(hidden, text);
}

function setBusy(isBusy) {
  categoria.setAttribute("aria-busy", isBusy);
  busy.textContent = isBusy ? "Procurando a categoria…" : "";
}

function setCategory(name) {
  categoria.value = name;
  if (categoria.value) note(categoria, "");
  if (document.activeElement === categoria) categoria.select(); // as Tab does, so that what is typed replaces it
}

/** @param {{categoria: Category}[]} options */
function setSuggestions(options) {
  if (suggestions.contains(document.activeElement)) categoria.focus(); // else the focus is lost with its button
  suggestions.hidden = options.length === 0;
  suggestions.replaceChildren(...options.map(({ categoria: name }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => choose(name));
    return button;
  }));
}

function choose(name) {
  setCategory(name);
  form.elements.enviar.focus(); // what comes next; the field itself would open a phone's keyboard
  takeOver();
  say("", `Categoria escolhida: ${name}.`);
}

/** What is in the category now, the seller has put there. */
function takeOver() {
  cancel();
  clearSuggestion();
  state.failed = null;
  state.typed = categoria.value.trim() !== "";
}

/** Show a text under a field: what is wrong with it, or how long it is. */
function note(field, text, isError = false) {
  document.getElementById(`${field.id}-ajuda`).textContent = text;
  field.setAttribute("aria-invalid", isError);
}

/** In code points after NFC, as the API counts. */
function lengthOf(field) {
  return [...field.value.normalize("NFC")].length;
}

function check(field, { isRequired }) {
  const [length, limit] = [lengthOf(field), LIMIT[field.id]];
  const count = `${length.toLocaleString("pt-BR")} de ${limit.toLocaleString("pt-BR")} caracteres`;
  if (isRequired && !field.value.trim()) note(field, MISSING[field.id], true);
  else if (length > limit) note(field, `Longo demais: ${count}.`, true);
  else note(field, length > 0.9 * limit ? count : "");
}

async function submit(event) {
  event.preventDefault();
  result.textContent = "";
  const [body, typed] = [questionBody(), state.typed];
  await suggest(); // whoever goes straight to Enviar gets a category too
  if (questionBody() !== body || state.typed !== typed) return; // he writes again: not the moment for complaints
  const fields = [titulo, descricao, categoria];
  fields.forEach((field) => check(field, { isRequired: true }));
  const wrong = fields.find((field) => field.getAttribute("aria-invalid") === "true");
  if (wrong) return wrong.focus();
  result.textContent =
    "Nada foi gravado: ainda não há onde guardar produtos. O formulário está completo e o texto continua aqui.";
  result.scrollIntoView({ block: "nearest" });
}

async function loadCategories() {
  if (categories.children.length) return;
  try {
    const { categorias } = await (await fetch(`${API}/api/modelo`)).json();
    categories.replaceChildren(...categorias.map((name) => new Option("", name)));
  } catch {
    // The list is a comfort: without it the category is typed, and the next visit to the field asks for it again.
  }
}

for (const field of [titulo, descricao]) {
  field.addEventListener("input", () => {
    cancel();
    state.failed = null;
    check(field, { isRequired: false });
    state.timer = setTimeout(suggest, PAUSE_MS);
  });
  field.addEventListener("blur", (event) => {
    if (!suggestions.contains(event.relatedTarget)) suggest(); // a press on a suggestion chooses it
  });
}
categoria.addEventListener("input", () => {
  takeOver();
  check(categoria, { isRequired: false });
});
categoria.addEventListener("blur", suggest); // once emptied and left, it is filled in again
categoria.addEventListener("focus", loadCategories);
addEventListener("pointerdown", () => {
  state.released = new Promise((done) => {
    // In a task of its own: the click comes after the release.
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => setTimeout(done), { once: true });
    setTimeout(done, LONGEST_PRESS_MS); // a context menu keeps the release to itself
  });
});
form.addEventListener("input", () => { result.textContent = ""; });
form.addEventListener("submit", submit);
loadCategories();
suggest(); // what was written before this script was there
