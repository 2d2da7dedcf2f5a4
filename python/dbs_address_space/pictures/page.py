"""The style sheet and the script of a page. Without the script all can be read; it finds, steps and shows details."""

from __future__ import annotations

from dbs_address_space.errors import InvalidArgument

from .palette import DARK, LIGHT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .palette import Theme

__all__ = ["SCRIPT", "style_sheet"]


def style_sheet(theme: str) -> str:
    """The rules for `"light"`, `"dark"` or `"auto"`; paper is white."""
    chosen = {"light": LIGHT, "auto": LIGHT, "dark": DARK}
    if theme not in chosen:
        raise InvalidArgument(f"unknown theme {theme!r}: use one of auto, light, dark")
    dark = f"@media (prefers-color-scheme:dark){{{_colors(DARK)}}}" if theme == "auto" else ""
    return _colors(chosen[theme]) + dark + f"@media print{{{_colors(LIGHT)}}}" + RULES


def _colors(theme: Theme) -> str:
    (text, paper), (muted, line) = theme["paper"], theme["quiet"]
    common = f":root{{--text:{text};--paper:{paper};--muted:{muted};--line:{line}}}"
    looks = (look for look in theme if look not in {"paper", "quiet"})
    return common + "".join(f".{look}{{--edge:{theme[look][0]};--fill:{theme[look][1]}}}" for look in looks)


RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--text);font:13px/1.35 system-ui,sans-serif}
header{padding:18px 24px 6px}h1{font-size:17px;margin:0;display:inline}
header p{display:inline;color:var(--muted);margin-left:12px}
.shares{display:flex;gap:1px;height:8px;margin:12px 0 8px}.shares i{background:var(--edge);border-radius:1px}
.keys{display:flex;flex-wrap:wrap;gap:4px 20px;color:var(--muted)}
.keys i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px;background:var(--edge)}
nav{position:sticky;top:0;z-index:2;background:var(--paper);display:flex;flex-wrap:wrap;gap:8px 16px;align-items:center;
padding:8px 24px;border-bottom:1px solid var(--line);color:var(--muted)}
nav label{display:flex;gap:6px;align-items:center}
#find{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--line);border-radius:6px;padding:5px 9px;
width:min(340px,60vw)}
main{display:grid;grid-template-columns:minmax(0,1fr) 290px;gap:24px;padding:18px 24px 40px;max-width:1400px}
.row{display:grid;grid-template-columns:148px minmax(150px,260px) 80px 92px 40px 120px 60px;column-gap:12px;position:relative;
min-height:calc(26px + var(--height,4px)*var(--doublings,0));align-items:stretch;outline-offset:-2px;list-style:none}
.row>span{display:flex;align-items:center}
.row::before{content:'';position:absolute;top:-1px;left:156px;right:0;border-top:1px solid var(--line)}
.head::before{content:none}
.address{font:12px ui-monospace,monospace;align-items:flex-start!important;justify-content:flex-end;
transform:translateY(-8px);height:0}
.size{justify-content:flex-end;font:12px ui-monospace,monospace}.fact{font:12px ui-monospace,monospace;white-space:nowrap}
.block{border:1px solid var(--edge);border-left-width:6px;background:var(--fill);padding:3px 10px;font-weight:600;
position:relative;margin-top:-1px;overflow:hidden}
.block span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.hotplug .block{border-style:dashed;border-left-style:solid}
.reserved .block{border:1px dashed var(--edge);padding-left:15px;
background:repeating-linear-gradient(45deg,var(--fill) 0 5px,var(--line) 5px 6px)}
.reserved .block span{background:var(--fill);padding:1px 6px;margin-left:-6px;border-radius:3px}
.row.free{color:var(--muted);min-height:22px}.free.large{min-height:30px}
.free .block{border:0;border-left:1px dotted var(--muted);border-right:1px dotted var(--muted);background:none;font-weight:400;
padding-left:15px;justify-content:space-between}
.free.large .block::after{content:'≈';font-size:16px}
.head{color:var(--muted);min-height:24px}.head .block{padding:0 10px 0 15px}
.head span{border:0;background:none;font:inherit;align-items:flex-start!important;transform:none;height:auto}
.last{color:var(--muted)}
summary{cursor:pointer}summary::-webkit-details-marker{display:none}
summary .block span::before{content:'▸ '}details[open] summary .block span::before{content:'▾ '}
.members{font:12px ui-monospace,monospace;white-space:pre;padding:6px 0 6px 168px;overflow:auto;max-height:60vh}
.members pre{margin:0}
.row:hover .block,.row:focus-visible .block,.row.kept .block{box-shadow:0 0 0 1px var(--edge,var(--muted))}
.row.missed{opacity:.25}
aside{position:sticky;top:64px;align-self:start;border:1px solid var(--line);border-radius:8px;padding:14px 16px;
min-height:150px;
white-space:pre-wrap;overflow-wrap:anywhere}
aside p{margin:0;color:var(--muted)}footer{color:var(--muted);padding:0 24px 30px}
@media (max-width:1180px){main{grid-template-columns:minmax(0,1fr)}
aside{position:fixed;left:0;right:0;bottom:0;top:auto;min-height:0;
max-height:40vh;overflow:auto;background:var(--paper);z-index:3}aside:has(p){display:none}}
@media (max-width:900px){header,nav,main,footer{padding-left:14px;padding-right:14px}
.row{grid-template-columns:126px minmax(0,1fr) 76px}
.row::before{left:134px}.fact{display:none!important}.block{flex-wrap:wrap}.members{padding-left:0}
.row:not(.free):not(.head) .block::after{content:attr(data-facts);font:400 11px system-ui,sans-serif;color:var(--muted);
flex-basis:100%}}
@media (prefers-contrast:more){.block{border-width:2px;border-left-width:8px}}
@media print{nav,aside{display:none!important}main{display:block;padding-bottom:12px}footer{padding-bottom:0;break-before:avoid}
.members{max-height:none;overflow:visible}.row{break-inside:avoid}.address{transform:none}*{print-color-adjust:exact}}
"""

SCRIPT = """
const all=[...document.querySelectorAll('.row[data-base]')];
const aside=document.querySelector('aside'),find=document.getElementById('find');
let kept=null;
const show=row=>{aside.textContent=row.title};
for(const row of all){
row.addEventListener('pointerenter',()=>kept||show(row));
row.addEventListener('focus',()=>show(row));
row.addEventListener('click',()=>{kept?.classList.remove('kept');kept=kept===row?null:row;
if(kept){kept.classList.add('kept');show(kept)}});
}
const address=text=>/^0x[0-9a-f_]+$|^[0-9]+$/i.test(text)?BigInt(text.replaceAll('_','')):null;
const text=row=>(row.title+' '+(row.tagName==='SUMMARY'?row.parentElement.textContent:'')).toLowerCase();
find.addEventListener('input',()=>{
const wanted=find.value.trim().toLowerCase();let at=null;try{at=address(wanted)}catch{}
const hit=row=>!wanted||(at===null?text(row).includes(wanted):BigInt(row.dataset.base)<=at&&at<BigInt(row.dataset.end));
const hits=all.filter(hit);for(const row of all)row.classList.toggle('missed',!hits.includes(row));
document.getElementById('found').textContent=wanted?hits.length+(hits.length===1?' row':' rows'):'';
if(wanted&&hits.length){hits[0].scrollIntoView({block:'nearest'});show(hits[0])}
});
document.getElementById('height').addEventListener('input',event=>
document.documentElement.style.setProperty('--height',event.target.value+'px'));
document.addEventListener('keydown',event=>{
const at=all.indexOf(document.activeElement),step={ArrowDown:1,ArrowUp:-1}[event.key];
if(event.key==='/'&&event.target.tagName!=='INPUT'){event.preventDefault();find.focus()}
else if(step&&at>=0){event.preventDefault();all[at+step]?.focus()}
else if(event.key==='Escape'){kept?.classList.remove('kept');kept=null}
});
"""
