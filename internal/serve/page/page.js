// The chat page. The conversation and the settings stay in this tab's session storage: a reload keeps them, closing the tab ends them.
import { markdown } from "/markdown.js";

const $ = (id) => document.getElementById(id);
const fields = ["system", "temperature", "top_p", "top_k", "max_tokens", "seed", "key"];
let messages = [];
let running = null; // AbortController of the answer in progress

function store() {
  const settings = Object.fromEntries(fields.map((f) => [f, $(f).value]));
  try {
    sessionStorage.setItem("chat", JSON.stringify({ messages, settings, model: $("model").value }));
  } catch { /* storage is full or forbidden: the page works without */ }
}

function restore() {
  try {
    const saved = JSON.parse(sessionStorage.getItem("chat") ?? "{}");
    messages = saved.messages ?? [];
    for (const f of fields) if (saved.settings?.[f] !== undefined) $(f).value = saved.settings[f];
    return saved.model;
  } catch {
    return undefined;
  }
}

const headers = () => ({
  "Content-Type": "application/json",
  ...($("key").value ? { Authorization: "Bearer " + $("key").value } : {}),
});

async function loadModels(chosen) {
  try {
    const answer = await fetch("/v1/models", { headers: headers() });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const { data } = await answer.json();
    $("model").replaceChildren(...data.map((m) => new Option(m.id, m.id, false, m.id === chosen)));
    status(data.length ? "" : "No model is there: pull one with ellm-gpu pull ORG/NAME");
  } catch (e) {
    status("Models could not be listed: " + e.message, true);
  }
}

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", bad);
}

function button(text, action, label = text) {
  const b = document.createElement("button");
  b.type = "button";
  b.textContent = text;
  b.title = label;
  b.addEventListener("click", action);
  return b;
}

// view returns the element of message i. Rendering a streamed answer replaces the text's elements only.
function view(m, i) {
  const a = document.createElement("article");
  a.className = m.role;
  if (m.role === "user") {
    a.textContent = m.content;
    return a;
  }
  const text = document.createElement("div");
  text.className = "text";
  a.append(text);
  fill(a, m);
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.append(button("Copy", () => navigator.clipboard?.writeText(m.content)));
  if (i === messages.length - 1) tools.append(button("Regenerate", regenerate));
  const rate = document.createElement("span");
  rate.className = "rate";
  rate.textContent = m.rate ?? "";
  tools.append(rate);
  a.append(tools);
  return a;
}

function fill(a, m) {
  const text = a.querySelector(".text");
  const parts = markdown(m.content);
  if (m.reasoning) {
    const d = document.createElement("details");
    d.open = a.querySelector("details")?.open ?? !m.content;
    const s = document.createElement("summary");
    s.textContent = "Thinking";
    d.append(s, m.reasoning);
    parts.unshift(d);
  }
  if (m.error) {
    const p = document.createElement("p");
    p.className = "error";
    p.textContent = m.error;
    parts.push(p);
  }
  text.replaceChildren(...parts);
}

function render() {
  if (messages.length === 0) {
    const p = document.createElement("p");
    p.className = "empty";
    p.textContent = "Ask something.";
    $("log").replaceChildren(p);
    return;
  }
  $("log").replaceChildren(...messages.map(view));
  $("log").scrollTop = $("log").scrollHeight;
}

function body() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const system = $("system").value.trim();
  const sent = messages.slice(0, -1).filter((m) => !m.error || m.content).map(({ role, content }) => ({ role, content }));
  return JSON.stringify({
    model: $("model").value, stream: true, stream_options: { include_usage: true }, temperature: number("temperature"),
    top_p: number("top_p"), top_k: number("top_k"), max_tokens: number("max_tokens"), seed: number("seed"),
    messages: [...(system ? [{ role: "system", content: system }] : []), ...sent],
  });
}

// lines yields the data of server-sent events.
async function* events(stream) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = stream.getReader(); ;) {
    const { value, done } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const line of parts) if (line.startsWith("data: ")) yield line.slice(6);
    if (done) return;
  }
}

async function answer() {
  const m = { role: "assistant", content: "" };
  messages.push(m);
  render();
  const a = $("log").lastElementChild;
  busy(new AbortController());
  let frame = 0;
  const draw = () => {
    frame = 0;
    const low = $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 80;
    fill(a, m);
    if (low) $("log").scrollTop = $("log").scrollHeight;
  };
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: body(), signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices[0]?.delta ?? {};
      m.content += delta.content ?? "";
      m.reasoning = (m.reasoning ?? "") + (delta.reasoning_content ?? "");
      if (chunk.choices[0]?.finish_reason === "length") m.cut = true;
      if (chunk.timings) m.rate = rate(chunk.timings, m.cut);
      frame ||= requestAnimationFrame(draw);
    }
  } catch (e) {
    if (e.name !== "AbortError") m.error = e.message;
    else m.rate = "stopped";
  }
  cancelAnimationFrame(frame);
  busy(null);
  store();
  render();
  $("input").focus();
}

function rate(t, cut) {
  return `${t.predicted_n} tokens, ${t.predicted_per_second.toFixed(1)} per second${cut ? ", cut at the limit" : ""}`;
}

function busy(controller) {
  running = controller;
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
  if (controller) status("Answering…");
  else status("");
}

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  messages.push({ role: "user", content: text });
  $("input").value = "";
  grow();
  store();
  answer();
}

function regenerate() {
  if (running || messages.length < 2) return;
  messages.pop();
  answer();
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = $("input").scrollHeight + 2 + "px";
}

function newChat() {
  running?.abort();
  messages = [];
  store();
  render();
  $("input").focus();
}

$("form").addEventListener("submit", (e) => { e.preventDefault(); send(); });
$("input").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
});
$("input").addEventListener("input", grow);
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", newChat);
$("settings-open").addEventListener("click", () => {
  $("settings").hidden = !$("settings").hidden;
  $("settings-open").setAttribute("aria-expanded", String(!$("settings").hidden));
});
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") running?.abort();
  if (e.key.toLowerCase() === "o" && e.ctrlKey && e.shiftKey) { e.preventDefault(); newChat(); }
});
for (const f of [...fields, "model"]) $(f).addEventListener("change", store);
$("key").addEventListener("change", () => loadModels($("model").value));

const chosen = restore();
render();
loadModels(chosen);
