"""The quality report's style: one sheet, light and dark, no font or file from elsewhere.

Takes nothing; gives CSS.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --quiet: #5d6b7a; --paper: #fbfbf9; --card: #fff; --rule: #dfe3e8;
  --bad: #a8321f; --bad-paper: #fdeeea; --link: #1f5f8b; --c1: #2f6fa8; --c2: #c0722b; --c3: #4b8f57; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe5ec; --quiet: #97a5b4; --paper: #14181d; --card: #1b2128;
  --rule: #323b45; --bad: #ff9a85; --bad-paper: #3a211c; --link: #84bde8; --c1: #7ab3e3; --c2: #e6a567;
  --c3: #8ecb99; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main { max-width: 1280px; margin: 0 auto; padding: 0 24px; }
main { padding-bottom: 64px; }
h1 { font-size: 26px; font-weight: 600; margin: 28px 0 8px; }
h2 { font-size: 19px; font-weight: 600; margin: 36px 0 8px; }
h3 { font-size: 16px; font-weight: 600; display: inline; }
h4 { font-size: 14px; font-weight: 600; margin: 22px 0 6px; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; }
code { font: 12px ui-monospace, monospace; overflow-wrap: anywhere; }
.quiet, figcaption, caption { color: var(--quiet); font-size: 13px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 6px;
  margin: 10px 0; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 8px 10px 4px; }
th, td { text-align: left; vertical-align: top; padding: 4px 10px; border-top: 1px solid var(--rule); font-weight: 400;
  overflow-wrap: anywhere; }
thead th { color: var(--quiet); border-top: 0; vertical-align: bottom; overflow-wrap: normal; }
.tall { max-height: 76vh; overflow: auto; }
.tall thead th { position: sticky; top: 0; background: var(--card); box-shadow: 0 1px var(--rule); }
.tall th, .tall td { overflow-wrap: normal; }
.tall thead th:nth-child(n+3):not(:last-child) { text-align: right; }
td.number { text-align: right; white-space: nowrap; }
td.bad, p.bad { color: var(--bad); font-weight: 600; }
tr.flagged { background: var(--bad-paper); }
body:has(#only-flagged:checked) tr.good { display: none; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px;
  align-items: start; }
figure { margin: 8px 0; }
.chart { max-width: 720px; }
svg { display: block; width: 100%; height: auto; }
svg.hidden { position: absolute; width: 0; height: 0; }
details { margin: 8px 0; }
details.subject { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 8px 16px; }
summary { cursor: pointer; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--quiet); white-space: pre; }
.frame { fill: none; stroke: var(--rule); }
.rule { stroke: var(--rule); stroke-width: .5; }
.threshold { stroke: var(--bad); stroke-dasharray: 5 4; }
.line { fill: none; stroke: var(--c1); stroke-width: 1.3; stroke-linejoin: round; }
.line.y, .line.after, .line.fitted { stroke: var(--c2); } .line.z { stroke: var(--c3); }
.line.before, .line.ascending, .line.descending { stroke: var(--quiet); }
.line.ascending { stroke-dasharray: 6 4; } .line.descending { stroke-dasharray: 2 4; }
.dots { fill: none; stroke: var(--quiet); stroke-width: 4; stroke-linecap: round; opacity: .45; }
.chart .name { fill: var(--c1); } .chart .name.y, .chart .name.after, .chart .name.fitted { fill: var(--c2); }
.chart .name.z { fill: var(--c3); }
.chart .name.before, .chart .name.ascending, .chart .name.descending { fill: var(--quiet); }
.anatomy { background: #000; border-radius: 4px; }
.anatomy text { font: 4.5px system-ui, sans-serif; fill: #cfd6dd; }
.mask, .grey, .other { fill: none; stroke-width: .45; } .mask, .grey { stroke: #46c2cf; } .other { stroke: #f2a13c; }
.missing { fill: #ff4a3d; fill-opacity: .55; stroke: none; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px; color: var(--quiet); }
.key::before { content: ""; display: inline-block; width: 18px; height: 4px; margin-right: 6px;
  vertical-align: middle; }
.key.other::before { background: #f2a13c; } .key.mask::before { background: #46c2cf; }
.key.missing::before { background: #ff4a3d; height: 10px; }
@media print { .tall { max-height: none; } details.subject { break-inside: avoid; } }
"""
