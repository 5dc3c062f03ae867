// Markdown as models write it, turned into elements. Text never becomes markup: only createElement and text nodes are used, and links
// lead to http(s) addresses alone.

function element(name, text) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  return e;
}

const inline = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([\s\S]+?)\*\*|\*([^*\s](?:[^*]*[^*\s])?)\*|~~([\s\S]+?)~~|\[([^\]\n]+)\]\((https?:\/\/[^)\s]+)\)/;

// spans appends text to parent with code, bold, italic, struck and linked parts. depth bounds nesting.
function spans(parent, text, depth = 0) {
  for (;;) {
    const m = depth < 8 ? inline.exec(text) : null;
    if (!m) break;
    if (m.index > 0) parent.append(text.slice(0, m.index));
    if (m[2] !== undefined) parent.append(element("code", m[2].trim()));
    else if (m[7] !== undefined) {
      const a = element("a", m[6]);
      a.href = m[7];
      a.rel = "noopener noreferrer";
      a.target = "_blank";
      parent.append(a);
    } else {
      const e = element(m[3] !== undefined ? "strong" : m[4] !== undefined ? "em" : "s");
      spans(e, m[3] ?? m[4] ?? m[5], depth + 1);
      parent.append(e);
    }
    text = text.slice(m.index + m[0].length);
  }
  if (text) parent.append(text);
}

function codeBlock(lines, language) {
  const pre = element("pre");
  const code = element("code", lines.join("\n"));
  if (language) code.dataset.language = language;
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.addEventListener("click", () => navigator.clipboard?.writeText(code.textContent).then(() => { copy.textContent = "Copied"; }));
  pre.append(code, copy);
  return pre;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());

function table(lines) {
  const t = element("table");
  lines.forEach((line, row) => {
    if (row === 1) return;
    const tr = element("tr");
    for (const c of cells(line)) {
      const cell = element(row === 0 ? "th" : "td");
      spans(cell, c);
      tr.append(cell);
    }
    t.append(tr);
  });
  return t;
}

const item = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

// list builds nested lists from lines that are items or their continuations.
function list(lines) {
  const root = [];
  const open = []; // {indent, element}
  let last = null;
  for (const line of lines) {
    const m = item.exec(line);
    if (!m) {
      if (last) spans(last, " " + line.trim());
      continue;
    }
    const indent = m[1].length;
    while (open.length && indent < open[open.length - 1].indent) open.pop();
    if (!open.length || indent > open[open.length - 1].indent + 1) {
      const ordered = /\d/.test(m[2]);
      const l = element(ordered ? "ol" : "ul");
      if (ordered) l.start = parseInt(m[2], 10);
      if (last && open.length) last.append(l);
      else root.push(l);
      open.push({ indent, element: l });
    }
    last = element("li");
    spans(last, m[3]);
    open[open.length - 1].element.append(last);
  }
  return root;
}

// markdown returns the elements of a text, which may not be complete.
export function markdown(text) {
  const out = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const fence = /^\s*(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    const take = (test) => {
      const from = i;
      while (i < lines.length && test(lines[i], i - from)) i++;
      return lines.slice(from, i);
    };
    if (fence) {
      i++;
      const body = take((l) => !l.trim().startsWith(fence[1]));
      i++;
      out.push(codeBlock(body, fence[2]));
    } else if (heading) {
      const h = element("h" + Math.min(6, heading[1].length + 1));
      spans(h, heading[2]);
      out.push(h);
      i++;
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      out.push(element("hr"));
      i++;
    } else if (item.test(line)) {
      out.push(...list(take((l, n) => item.test(l) || (n > 0 && l.trim() !== "" && /^\s/.test(l)))));
    } else if (/^\s*>/.test(line)) {
      const q = element("blockquote");
      q.append(...markdown(take((l) => /^\s*>/.test(l)).map((l) => l.replace(/^\s*> ?/, "")).join("\n")));
      out.push(q);
    } else if (line.includes("|") && /^[\s|:-]+$/.test(lines[i + 1] ?? "") && (lines[i + 1] ?? "").includes("-")) {
      out.push(table(take((l) => l.includes("|"))));
    } else if (line.trim() === "") {
      i++;
    } else {
      const p = element("p");
      const text = take((l, n) => n === 0 || (l.trim() !== "" && !/^\s*(```|~~~|#{1,6}\s|>)/.test(l) && !item.test(l)));
      text.forEach((l, n) => {
        if (n > 0) p.append(element("br"));
        spans(p, l);
      });
      out.push(p);
    }
  }
  return out;
}
