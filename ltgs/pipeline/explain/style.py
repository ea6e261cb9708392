"""The style sheet of the page; no fonts, scripts or pictures from elsewhere."""

from __future__ import annotations

STYLE = """
:root{--bg:#f6f6f4;--card:#fff;--ink:#1b1c1f;--soft:#5e636b;--line:#dfe0dc;--mark:#0b66c3;--good:#1c7a43;--bad:#a8341f;
--warn:#8a5a00;--warnbg:#fff4db;--chip:#ecece8;--shadow:0 1px 2px rgba(20,20,25,.06),0 4px 14px rgba(20,20,25,.05)}
@media (prefers-color-scheme:dark){:root{--bg:#131417;--card:#1c1e22;--ink:#eceded;--soft:#a2a7af;--line:#32353b;--mark:#79b8ff;
--good:#6bd08f;--bad:#ff9581;--warn:#ffcf70;--warnbg:#33290f;--chip:#2a2d33;--shadow:none}}
*{box-sizing:border-box}
html{scroll-padding-top:68px;color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Noto Sans","DejaVu Sans",sans-serif}
a{color:var(--mark);text-decoration:none}a:hover{text-decoration:underline}
header{position:sticky;top:0;z-index:5;background:var(--card);border-bottom:1px solid var(--line)}
header div,header nav,.strip,.wide{scrollbar-width:thin}
header div{max-width:1640px;margin:0 auto;padding:10px 24px;display:flex;gap:6px 22px;align-items:baseline;overflow-x:auto}
header b{font-size:16px;white-space:nowrap}header span{color:var(--soft);white-space:nowrap}
header nav{display:flex;gap:18px;margin-left:auto;white-space:nowrap}
main{max-width:1640px;margin:0 auto;padding:22px 24px 60px}
h1{font-size:28px;line-height:1.2;letter-spacing:-.01em;margin:6px 0 4px}
h2{font-size:20px;letter-spacing:-.005em;margin:44px 0 4px}
h3{font-size:16px;margin:0}h4{font-size:13px;margin:18px 0 6px;color:var(--soft);font-weight:600}
p{margin:6px 0}.lead{font-size:17px;max-width:75ch}.soft{color:var(--soft)}.hint{color:var(--soft);max-width:95ch;margin-bottom:14px}
.chips{display:flex;flex-wrap:wrap;gap:8px;margin:14px 0}
.chips span{background:var(--chip);border-radius:8px;padding:5px 11px;font-size:13.5px}.chips b{font-weight:650}
.banner{background:var(--warnbg);color:var(--warn);border-radius:10px;padding:11px 16px;margin:14px 0;max-width:95ch}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;box-shadow:var(--shadow);padding:16px 18px;margin:0 0 16px}
.row h3{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline;overflow-wrap:anywhere}
.row h3 span{font-weight:400;font-size:13.5px;color:var(--soft)}
.strip{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));gap:10px;margin-top:12px}
figure{margin:0;min-width:0}figcaption{font-size:13px;line-height:1.35;margin-top:5px}
figcaption b{display:block;font-weight:600}figcaption span{color:var(--soft)}
.pic{position:relative;display:block;border-radius:7px;overflow:hidden;background:#222}
.pic img{display:block;width:100%;height:auto}
.tag{position:absolute;transform:translate(-50%,-100%);font-size:11px;line-height:1;font-weight:650;padding:3px 5px;border-radius:5px;
white-space:nowrap;color:#fff;background:rgba(15,16,20,.86);border:1.5px solid}
.tag i{font-style:normal;font-weight:500}.strip .tag i,.strip .tag.other{display:none}
.strip .tag{font-size:10px;padding:1px 3px;border-width:1px}.tag.left{border-style:dashed}
.tag.other{font-weight:500;padding:2px 4px;border-width:1px}
.legend{display:flex;flex-wrap:wrap;gap:6px 26px;font-size:13px;color:var(--soft);align-items:center;margin:0 0 14px}
.legend i{display:inline-block;width:120px;height:10px;border-radius:5px;vertical-align:middle;margin:0 7px;
background:linear-gradient(90deg,#000004,#420a68,#932667,#dd513a,#fca50a,#fcffa4)}
.legend em{display:inline-block;width:22px;height:12px;border-radius:3px;vertical-align:middle;margin-right:6px}
.legend .hatch{background:repeating-linear-gradient(135deg,#607088 0 3px,#9aa3b0 3px 6px)}
.zoom{display:none}
.zoom:target{display:flex;flex-direction:column;position:fixed;inset:0;z-index:20;
background:rgba(12,13,16,.96);color:#eee;padding:10px 16px}
.zoom nav{display:flex;flex-wrap:wrap;gap:6px;justify-content:center;padding:4px 0 10px}
.zoom nav a{color:#cfd3da;padding:4px 11px;border-radius:7px;font-size:14px}.zoom nav a.on{background:#3a3f48;color:#fff}
.zoom .fit{flex:1;min-height:0;display:flex;align-items:center;justify-content:center}
.zoom .hold{position:relative;aspect-ratio:var(--w)/var(--h);height:min(100%,calc((100vw - 32px)*var(--h)/var(--w)))}
.zoom .hold img{width:100%;height:100%;display:block;border-radius:6px}
.objects{display:grid;grid-template-columns:minmax(0,1fr);gap:16px}
.obj{padding:0;overflow:hidden;border-left:6px solid var(--own)}
.obj>div{padding:16px 18px}
.obj .top{display:flex;flex-wrap:wrap;gap:8px 12px;align-items:center;padding-bottom:0}
.obj h3{font-size:18px}
.badge{font-size:12.5px;border-radius:6px;padding:2px 8px;background:var(--chip)}
.badge.warn{background:var(--warnbg);color:var(--warn)}
.split{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:0 40px;padding-bottom:0!important}
.obj .split{padding-top:4px}.split h4{margin-top:8px}.obj>div:last-child{padding-top:0}
dl{display:grid;grid-template-columns:auto 1fr;gap:3px 16px;margin:8px 0;font-size:14px}dt{color:var(--soft)}dd{margin:0}
ul.why{margin:8px 0;padding-left:19px}ul.why li{margin:3px 0}
.life{letter-spacing:3px;font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.life u{text-decoration-thickness:2px;text-underline-offset:4px}
.crops{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:12px 18px}
.trip{display:grid;grid-template-columns:repeat(3,1fr);gap:4px;border-radius:7px;overflow:hidden}
.trip img{width:100%;display:block;aspect-ratio:1}
.trip span{font-size:11.5px;color:var(--soft);text-align:center}
.wide{overflow-x:auto;margin:4px 0 2px}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th{font-weight:600;color:var(--soft);text-align:left;border-bottom:1px solid var(--line);padding:4px 14px 4px 0;white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:5px 14px 5px 0;vertical-align:top}
tr:last-child td{border-bottom:0}td.n{white-space:nowrap}
tr.yes td:first-child{box-shadow:inset 3px 0 var(--good);padding-left:10px}
tr.no td:first-child{padding-left:10px}th:first-child{padding-left:10px}
.yes .what{color:var(--good);font-weight:600}.no .what{color:var(--soft)}
.bar{display:inline-block;width:64px;height:7px;border-radius:4px;background:var(--chip);vertical-align:middle;margin-right:8px;overflow:hidden}
.bar i{display:block;height:100%;width:var(--v);background:var(--mark)}.no .bar i{background:var(--soft)}
.others{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:16px}
.others .card{margin:0;font-size:14px}.others h3{margin-bottom:8px;display:flex;gap:10px;align-items:baseline}
.others h3 span{font-weight:400;color:var(--soft);font-size:13px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.ramp{display:flex;border-radius:7px;overflow:hidden;height:34px;margin:3px 0 9px}.ramp i{flex:1}
.time{display:grid;grid-template-columns:auto 1fr auto;gap:5px 12px;font-size:13.5px;align-items:center}
.time div{height:9px;border-radius:5px;background:var(--mark);width:var(--v);min-width:2px}
details{margin:8px 0}summary{cursor:pointer;color:var(--mark);font-size:14px}
code{font:13px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:13px;margin-top:44px}
@media (max-width:900px){
html{scroll-padding-top:96px}
header div{flex-wrap:wrap;padding:9px 16px}header nav{margin:0;width:100%;overflow-x:auto;scrollbar-width:none;gap:16px}
main{padding:14px 16px 50px}h1{font-size:23px}.split{grid-template-columns:minmax(0,1fr)}
.strip{grid-template-columns:none;grid-auto-flow:column;grid-auto-columns:min(78vw,420px);overflow-x:auto;scroll-snap-type:x mandatory;
margin-left:-18px;margin-right:-18px;padding:0 18px 8px;scroll-padding:18px}
.strip figure{scroll-snap-align:start}
}
"""
