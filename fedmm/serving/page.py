"""The server's own page: a form, a list with titles, and why. Text from data is set as text, never as HTML."""

from __future__ import annotations

from fedmm.drawing.style import STYLE

FORM = """<form id="form"><p><label>User of the data <input id="user" name="user" autocomplete="off"></label></p>
<p><label>or items met so far, the newest last <input id="history" name="history" autocomplete="off"
placeholder="1, 260, 1196"></label></p>
<p id="secret" hidden><label>Token <input id="token" type="password" autocomplete="off"></label></p>
<p><button>Recommend</button></p></form>"""
OWN_STYLE = """form{background:var(--card);border-radius:4px;padding:.4rem 1rem;max-width:48rem}
label{display:block}
input{display:block;width:100%;font:inherit;padding:.4rem .5rem;color:inherit;background:var(--paper);
border:1px solid var(--grey);border-radius:4px}
button{font:inherit;padding:.4rem .9rem;border-radius:4px;border:1px solid var(--grey);background:var(--paper);
color:inherit;cursor:pointer}
ol{padding-left:2rem;max-width:48rem}ol li{margin:.9rem 0}ol p{margin:.2rem 0}ol button{padding:.1rem .6rem}
ol img{float:right;width:5.5rem;max-height:8rem;object-fit:contain;margin:0 0 .4rem .8rem;border-radius:4px}
ol li{display:flow-root list-item}
[role=status]{min-height:1.5em}"""
PAGE = f"""<!doctype html>
<html lang="en-GB"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>Recommendations</title><style>{STYLE}{OWN_STYLE}</style></head>
<body><main><header><h1>Recommendations</h1><p class="lead" id="about"></p></header>{FORM}
<p role="status" id="status"></p><ol id="items"></ol>
<p class="note"><a href="docs">Requests and answers</a></p></main><script src="page.js"></script></body></html>
"""
SCRIPT = """"use strict";
const at = name => document.getElementById(name);
const make = (tag, text, kind) => {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
async function ask(path, body) {
  const headers = {"Content-Type": "application/json"};
  if (at("token").value) headers.Authorization = "Bearer " + at("token").value;
  const answer = await fetch(path, body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers});
  const found = await answer.json();
  if (answer.status === 401) at("secret").hidden = false;
  if (!answer.ok) throw new Error(found.error.message);
  return found;
}
function whom() {
  const user = at("user").value.trim();
  if (user) return {user_id: user};
  return {history: at("history").value.split(",").map(one => one.trim()).filter(one => one)};
}
const pictures = new Map();
let pictured = false;
async function showPicture(item, entry) {
  if (!pictured) return;
  if (!pictures.has(item.item_id)) {
    const headers = at("token").value ? {Authorization: "Bearer " + at("token").value} : {};
    const answer = await fetch("picture?item_id=" + encodeURIComponent(item.item_id), {headers});
    pictures.set(item.item_id, answer.ok ? URL.createObjectURL(await answer.blob()) : "");
  }
  if (!pictures.get(item.item_id)) return;
  const image = document.createElement("img");
  image.src = pictures.get(item.item_id);
  image.alt = "Picture of " + (item.title || item.item_id);
  entry.prepend(image);
}
async function why(item, place, button) {
  button.disabled = true;
  try {
    const [found] = await ask("explain", {...place.whom, items: [item.item_id]});
    place.entry.append(make("p", found.words, "note"));
    button.remove();
  } catch (error) {
    button.disabled = false;
    at("status").textContent = error.message;
  }
}
async function recommend(event) {
  event.preventDefault();
  at("items").replaceChildren();
  at("status").textContent = "Asking …";
  try {
    const asked = whom();
    const found = await ask("recommend", asked);
    at("status").textContent = found.unknown.length ? "Unknown: " + found.unknown.join(", ") : "";
    for (const item of found.items) {
      const entry = document.createElement("li");
      const head = make("p", "");
      const button = make("button", "Why?");
      button.setAttribute("aria-label", "Why " + (item.title || item.item_id) + "?");
      head.append(make("b", item.title || item.item_id), " ", make("small", item.score.toFixed(3)), " ", button);
      entry.append(head);
      button.addEventListener("click", () => why(item, {whom: asked, entry}, button));
      at("items").append(entry);
      showPicture(item, entry);
    }
    if (at("items").firstChild) at("items").querySelector("button").click();
  } catch (error) {
    at("status").textContent = error.message;
  }
}
at("form").addEventListener("submit", recommend);
ask("health").then(found => {
  pictured = found.num_pictures > 0;
  at("about").textContent = `Run ${found.run}, round ${found.round}, ${found.num_items} items.`;
});
"""
