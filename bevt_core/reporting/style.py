"""The style sheet of all pages: system fonts, light and dark, phone and desktop, no scripts and no other files."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1b1d21; --quiet: #646a73; --line: #e2e4e8; --wash: #fbeee4; --good: #12733c; --glow: #e3f4e9;
  --s0: #8a8f98; --s1: #1f6feb; --s2: #c2570c; --s3: #7b4bd1; --s4: #12733c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --ink: #e8eaed; --quiet: #9aa1ab; --line: #2e333b; --wash: #3a2414; --good: #6fd896;
    --glow: #17351f; --s0: #8f96a1; --s1: #6aa5ff; --s2: #f0954a; --s3: #b597f5; --s4: #6fd896;
  }
  .chart img { filter: invert(.92) hue-rotate(180deg) }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 1.25rem 1.25rem 3rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line) }
p { margin: .5rem 0; overflow-wrap: anywhere }
a { color: var(--s1) }
.quiet, figcaption { color: var(--quiet); font-size: .85rem }
nav { margin: .5rem 0; overflow-wrap: anywhere }
figure { margin: .75rem 0; min-width: 0 }
img, svg { display: block; max-width: 100% }
figcaption { margin-top: .35rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto; margin: .75rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
td:last-child, th:last-child { padding-right: 0 }
th { color: var(--quiet); font-size: .85rem; font-weight: 600; vertical-align: bottom }
td { max-width: 36rem; overflow-wrap: break-word }
table:has(th:nth-child(6)) { min-width: 56rem }
.n { text-align: right; white-space: nowrap }
code { display: block; font: .78rem/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--quiet);
  overflow-wrap: anywhere }
code span { display: inline-block; max-width: 100% }
.wide { width: 100% }
.wide td { max-width: none }
.tight { table-layout: fixed }
.bar { width: 100%; min-width: 4rem; height: 6px; margin: .3rem 0 }
.track { fill: var(--line) }
.fill { fill: var(--s0) }
.strong .fill { fill: var(--s1) }
.mark { stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke }
.big { font-size: 1.45rem; font-weight: 650; line-height: 1.2; white-space: nowrap }
.gain, .lost { display: inline-block; padding: 0 .5rem; border-radius: 1rem; background: var(--wash); color: var(--s2);
  font-size: .85rem; font-weight: 600; white-space: nowrap }
.gain { background: var(--glow); color: var(--good) }
.lead { font-size: 1.05rem; max-width: 62rem; text-wrap: pretty }
.first { display: grid; gap: 0 2.5rem; grid-template-columns: minmax(0, 1fr) }
.first > div > :first-child { margin-top: .5rem }
.first > :nth-child(2) { width: min(100%, 36rem) }
.charts figure { margin: 0 }
.charts { display: grid; gap: .5rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
  align-items: end }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(6.5rem, 1fr)) }
.tiles figure { margin: 0 }
.strips img, .tiles img { width: 100%; border-radius: 3px }
.strips { max-width: 46rem }
.strips figure { margin: 0 0 4px }
.strips figcaption { margin: 0 0 .5rem }
.heads { display: flex; margin-bottom: .25rem; color: var(--quiet); font-size: .8rem; font-weight: 600;
  text-align: center }
.heads span { flex: 1 1 0; min-width: 0 }
.plot { max-width: 30rem }
.plot figcaption { margin: 0 0 .25rem }
.plot b { display: block; color: var(--ink); font-size: .95rem }
.key { display: inline-block; margin-right: .9rem }
.key svg { display: inline-block; width: 1.1rem; height: .6rem; margin-right: .3rem }
.plot text { fill: var(--quiet); font-size: 11px }
.grid { stroke: var(--line); stroke-width: 1 }
.dot { fill: var(--paper); stroke-width: 1.75 }
.level { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3 }
.curve { fill: none; stroke-width: 1.75; stroke-linejoin: round }
.s0 { stroke: var(--s0) } .s1 { stroke: var(--s1) } .s2 { stroke: var(--s2) } .s3 { stroke: var(--s3) }
.s4 { stroke: var(--s4) }
@media (min-width: 60rem) {
  .first { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); grid-template-rows: auto 1fr }
  .first > :nth-child(2) { grid-column: 2; grid-row: 1 / span 2; width: 100% }
}
@media (max-width: 30rem) {
  main { padding: 1rem 1rem 2rem }
  h1 { font-size: 1.15rem }
  .big { font-size: 1.25rem }
  .lead { font-size: 1rem }
  .tight td, .tight th { padding-right: .6rem }
}
"""
