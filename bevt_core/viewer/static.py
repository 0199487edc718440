"""The script and icon of served pages, and their additions to the style sheet of all pages. They load nothing else."""

# a grid of tokens, some of them hidden
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#1f6feb" d="M1 1h6v6H1zM9 9h6v6H9z"/>
<path fill="#8a8f98" d="M9 1h6v6H9zM1 9h6v6H1z"/></svg>
"""

SCRIPT = """
"use strict";

async function load(address, target) {
  try {
    const answer = await fetch(address);
    const text = await answer.text();
    target.classList.remove("stale");
    if (answer.ok) target.innerHTML = text;
    else {
      const page = new DOMParser().parseFromString(text, "text/html");
      target.replaceChildren(...page.querySelectorAll("main > p"));
    }
  } catch {
    target.classList.add("stale");
  }
}

// in place of a picture that cannot be drawn, show why
function explain(image) {
  const reason = document.createElement("p");
  (image.closest("picture") ?? image).replaceWith(reason);
  load(image.currentSrc || image.src, reason);
}
addEventListener("error", (event) => { if (event.target.tagName === "IMG") explain(event.target); }, true);
for (const image of [...document.images]) if (image.complete && image.currentSrc && !image.naturalWidth) explain(image);

for (const part of document.querySelectorAll("[data-renew]")) {
  const renew = async () => {
    if (part.querySelector("[data-final]")) return;
    if (!document.hidden) await load(part.dataset.renew, part);
    setTimeout(renew, Number(part.dataset.every));
  };
  setTimeout(renew, Number(part.dataset.every));
}

for (const form of document.querySelectorAll("[data-live]")) {
  let busy = false, again = false;
  const draw = async () => {
    if (busy) { again = true; return; }
    busy = true;
    do {
      again = false;
      await load(form.dataset.live + "?" + new URLSearchParams(new FormData(form)), form.nextElementSibling);
    } while (again);
    busy = false;
  };
  form.addEventListener("input", (event) => {
    const shown = event.target.closest("label")?.querySelector("output");
    if (shown) shown.value = event.target.value;
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}
"""

VIEW_STYLE = """
.menu { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 .75rem }
.fields { display: flex; flex-wrap: wrap; gap: .75rem 1.25rem; align-items: end; margin: .75rem 0 }
.fields label { color: var(--quiet); font-size: .85rem; flex: 1 1 9rem; max-width: 14rem; min-width: 0 }
.fields output { color: var(--ink) }
.fields [type=range] { height: 2.1rem }
.fields select, .fields input, .fields button { font: inherit; color: var(--ink); width: 100%; min-width: 0;
  display: block; margin: .25rem 0 0; accent-color: var(--s1) }
.fields select, .fields button, .fields [type=search] { background: var(--paper); border: 1px solid var(--line);
  border-radius: 3px; padding: .3rem .5rem; height: 2.1rem }
.fields button { width: auto }
.fields button:hover { border-color: var(--s1) }
.tiles img { height: auto; aspect-ratio: 1; background: var(--line) }
.tiles a { display: block }
.wall { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) }
.wall figure { margin: 0 }
.wall img { width: 100%; height: auto; aspect-ratio: 1; border-radius: 3px; background: var(--line) }
.films { display: grid; gap: 1rem 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
.films figure { margin: 0 }
.films img { border-radius: 3px }
.plot svg { overflow: visible }
.cells { display: grid; gap: 4px; grid-template-columns: repeat(4, minmax(0, 1fr)) }
.cells img { width: 100%; border-radius: 3px }
@media (min-width: 45rem) { .cells { grid-template-columns: repeat(8, minmax(0, 1fr)) } }
.matrix td, .matrix th { padding: .3rem .5rem; text-align: center; vertical-align: middle; max-width: 9rem }
.matrix th { overflow-wrap: anywhere }
.matrix tr > :first-child { text-align: right }
.matrix a { color: inherit; display: block; text-decoration: none }
.matrix a:hover { text-decoration: underline }
.m1 { background: color-mix(in srgb, var(--s1) 12%, var(--paper)) }
.m2 { background: color-mix(in srgb, var(--s1) 28%, var(--paper)) }
.m3 { background: color-mix(in srgb, var(--s1) 48%, var(--paper)) }
.m4 { background: var(--s1); color: var(--paper) }
.stale { opacity: .5 }
.stale::before { content: "Not updated: bevt view no longer answers."; display: block; color: var(--s2) }
"""
