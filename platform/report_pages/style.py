"""The report's style: one sheet, no font or file from elsewhere; readable on a phone, in print, without colours.

Takes nothing; gives CSS, and the colours and symbols of figures.
"""

INK, QUIET, RULE = "#1d2733", "#4f5d6b", "#c9d0d8"
BLUE, ORANGE, GREEN, GREY, PURPLE = "#0072b2", "#b84c00", "#00735a", "#5f6b77", "#8a3f72"
"""Told apart by colour-blind readers (after Okabe and Ito, darkened to 4.5 to 1 on white); symbols differ as well."""

STYLE = """
* { box-sizing: border-box; }
body { margin: 0; color: #1d2733; background: #fff; font: 16px/1.55 system-ui, sans-serif; }
main, header, footer { max-width: 980px; margin: 0 auto; padding: 0 16px; }
main { padding-bottom: 40px; }
h1 { font-size: 28px; line-height: 1.2; margin: 28px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 44px 0 8px; border-top: 2px solid #1d2733; padding-top: 10px; }
h3 { font-size: 17px; margin: 28px 0 4px; }
a { color: #0b5394; }
nav ul { display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 10px 0; list-style: none; }
nav a { display: inline-block; padding: 4px 0; }
.quiet, figcaption, caption { color: #4f5d6b; font-size: 14px; }
.verdict { border: 2px solid #1d2733; border-left-width: 10px; padding: 10px 18px; margin: 18px 0; }
.verdict h2 { border: 0; margin: 0; padding: 0; font-size: 16px; color: #4f5d6b; }
.verdict .word { font-size: 26px; font-weight: 700; margin: 0; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 4px 0; position: sticky; left: 0; max-width: calc(100vw - 32px); }
th, td { text-align: left; vertical-align: top; padding: 4px 10px 4px 0; border-top: 1px solid #c9d0d8;
  font-weight: 400; }
thead th { font-weight: 600; border-top: 0; vertical-align: bottom; }
td { overflow-wrap: break-word; }
td.long { overflow-wrap: anywhere; min-width: 16em; }
tr.winner th, tr.winner td { font-weight: 700; }
figure { margin: 18px 0 28px; }
.chart { width: 100%; min-height: 260px; }
.map { width: 100%; height: auto; max-width: 900px; }
details { margin: 6px 0; }
summary { cursor: pointer; padding: 4px 0; color: #0b5394; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f3f5f7; padding: 10px 12px; font-size: 13px; }
:focus-visible { outline: 3px solid #0b5394; outline-offset: 2px; }
@media print { nav, summary { display: none; } body { font-size: 11pt; } h2 { break-after: avoid; }
  figure, .verdict { break-inside: avoid; } a { color: inherit; } .scroll { overflow: visible; } }
"""
