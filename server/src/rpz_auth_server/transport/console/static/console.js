// What the console does beyond HTML: copying, the menu on a phone, a check while typing. All of it works without, too.
"use strict";
document.documentElement.classList.add("js");

// A one-time code comes behind the #, so that no server or log sees it; it leaves the address at once.
const code = document.querySelector("[data-from-fragment]");
if (code && location.hash.length > 1) {
  code.value = location.hash.slice(1);
  history.replaceState(null, "", location.pathname);
  code.form.querySelector("input[type=password]").focus();
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const value = button.parentElement.querySelector("[data-value]");
    const word = button.querySelector(".copy-word");
    try {
      await navigator.clipboard.writeText(value.textContent);
      word.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(value);
      word.textContent = "Press Ctrl+C";
    }
    button.classList.add("done");
    setTimeout(() => { word.textContent = "Copy"; button.classList.remove("done"); }, 2000);
  });
}

// A value that is shown once must not come back with the browser's Back button.
const shown = document.querySelector("[data-reveal] [data-value]");
if (shown) addEventListener("pagehide", () => { shown.textContent = ""; });

for (const select of document.querySelectorAll("[data-submit]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

const menu = document.getElementById("menu");
document.querySelector("[data-menu]")?.addEventListener("click", (event) => {
  const open = menu.classList.toggle("is-open");
  event.currentTarget.setAttribute("aria-expanded", String(open));
});

// One question at a time; Escape and a click elsewhere take it back.
const asks = [...document.querySelectorAll("details.ask")];
addEventListener("click", (event) => {
  for (const ask of asks) if (!ask.contains(event.target)) ask.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const ask of asks) if (ask.open) { ask.open = false; ask.querySelector("summary").focus(); }
});

for (const form of document.querySelectorAll("form[data-check]")) {
  const input = form.elements.namedItem("entry");
  const verdict = form.querySelector(".verdict");
  let waiting, latest = 0;
  const check = async () => {
    const mine = ++latest;
    verdict.className = "verdict";
    verdict.replaceChildren();
    if (!input.value.trim()) { input.removeAttribute("aria-invalid"); return; }
    const body = new URLSearchParams({ csrf: form.elements.namedItem("csrf").value, entry: input.value });
    const answer = await fetch(form.dataset.check, { method: "POST", body, redirect: "error" }).catch(() => null);
    if (mine !== latest || !answer?.ok) return;
    const said = await answer.json();
    if (mine !== latest) return;
    if (said.good) {
      const entry = document.createElement("code");
      entry.textContent = said.entry;
      verdict.append(entry, " \u2013 ");
    }
    verdict.append(said.text);
    verdict.classList.add(said.good ? "good" : "bad");
    input.setAttribute("aria-invalid", String(!said.good));
  };
  input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(check, 200); });
}
