"""The style of pages: light and dark, wide and narrow, screen and paper."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f5f6f8;--ink:#1a1a1a;--soft:#555b63;--rule:#d9dce1;
--blue:#0072b2;--orange:#d55e00;--green:#009e73;--purple:#cc79a7;--amber:#e69f00;--sky:#56b4e9;--grey:#6e6e6e;
--grid:#e4e4e4;--good:#00734f;--bad:#b04a00}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1d2128;--ink:#e8eaed;--soft:#a8afb9;
--rule:#343a44;--blue:#4da9e6;--orange:#ff8a4c;--green:#33c796;--purple:#e39bc4;--amber:#f0b73c;--sky:#8fd0f7;
--grey:#9aa1ab;--grid:#2c323b;--good:#33c796;--bad:#ff8a4c}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:76rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem;padding-top:.4rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.6rem 0 .4rem;overflow-wrap:anywhere}
p,ul{max-width:48rem;margin:.5rem 0}
ul{padding-left:1.2rem}
li{margin:.25rem 0}
p,li,code,figcaption{overflow-wrap:anywhere}
th,td{overflow-wrap:break-word}
.lead,.note{color:var(--soft)}
.note{font-size:.875rem}
.verdict{background:var(--card);border-left:4px solid var(--blue);border-radius:4px;padding:.8rem 1rem;margin:1.2rem 0;
max-width:56rem}
.verdict p{margin:.2rem 0;max-width:none}
.verdict p:first-child{font-size:1.125rem;font-weight:600}
.warnings li::marker{color:var(--orange)}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:0 0 .4rem;font-size:.875rem}
th,td{padding:.35rem .9rem .35rem 0;vertical-align:top;text-align:left;border-bottom:1px solid var(--rule)}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom;overflow-wrap:normal}
tbody th{font-weight:600;min-width:7rem}
td.words{min-width:5rem}
td code{display:inline-block;max-width:18rem}
th.number,td.number{text-align:right}
td.number{white-space:nowrap}
th code{overflow-wrap:break-word}
small{color:var(--soft);font-size:.85em}
.reasons{max-width:48rem}
.reasons li{display:flow-root list-item;margin:.8rem 0}
.reasons img{float:right;width:5.5rem;max-height:8rem;object-fit:contain;margin:0 0 .4rem .8rem;border-radius:4px}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.swatch{display:inline-block;width:1.6rem;height:.6rem;margin-right:.4rem;fill:none;vertical-align:baseline}
pre{background:var(--card);border-radius:4px;padding:.7rem .9rem;overflow-x:auto;font-size:.85rem;line-height:1.45;
white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.95em}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.4rem 1.6rem;
margin:1rem 0;align-items:start}
.tables{grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr))}
.tables table{width:100%}
.tables .scroll{margin:0}
figure{margin:0;min-width:0}
figcaption{font-size:.875rem;color:var(--soft);margin-bottom:.3rem}
figcaption b{color:var(--ink)}
figure svg{display:block;width:100%;height:auto}
figure.wide{grid-column:1/-1}
figure.wide div{overflow-x:auto}
figure.wide svg{min-width:40rem}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:inherit}
@media screen and (max-width:44rem){
main{padding:1rem .9rem 3rem}
h1{font-size:1.4rem}
table.stacked,.stacked tbody,.stacked tr,.stacked th,.stacked td,.stacked caption{display:block}
.stacked thead{display:none}
.stacked tr{padding:.5rem 0;border-bottom:1px solid var(--rule)}
.stacked th,.stacked td{border:0;padding:.12rem 0}
.stacked td{display:flex;justify-content:space-between;gap:1rem}
.stacked td::before{content:attr(data-label);color:var(--soft);flex:none;max-width:55%;white-space:normal;
text-align:left;overflow-wrap:anywhere}
.stacked td span{text-align:right;white-space:normal}
.stacked td small{white-space:nowrap}
.stacked th[data-label=Trial]::before{content:"Trial "}
.tables table{font-size:.8rem}
.tables tbody th{min-width:0}
.tables th,.tables td{padding-right:.5rem}
.tables td.number{white-space:normal}
.tables small{white-space:nowrap}
}
@media print{
body{font-size:10pt}
main{max-width:none;padding:0}
h2{break-after:avoid}
figure,tr,.verdict{break-inside:avoid}
.scroll,pre{overflow:visible}
table{font-size:7.5pt}
th,td{padding-right:.5rem}
tbody th,td.words{min-width:0}
td.number{white-space:normal}
td small{white-space:nowrap}
.panels{grid-template-columns:repeat(2,1fr)}
@page{margin:16mm}
}
"""
