// What a script adds to a page that is whole without one: news as it is seen, facts loaded into their folds, and keys.
"use strict";

const news = document.getElementById("news");
if (news) {
  const link = news.querySelector("a");
  const known = Number(news.dataset.seen);
  new EventSource(news.dataset.live).addEventListener("seen", (event) => {
    const more = JSON.parse(event.data).facts - known;
    link.textContent = `${more} more ${more === 1 ? "fact was" : "facts were"} seen: show the order as it is now`;
    news.hidden = false;
  });
}

async function load(fold) {
  const link = fold.querySelector("a");
  fold.dataset.state = "loading";
  const answer = await fetch(link.href).catch(() => null);
  const text = answer?.ok ? await answer.text() : "";
  const fact = new DOMParser().parseFromString(text, "text/html").querySelector("pre");
  if (fact) link.before(document.adoptNode(fact));
  else link.textContent = "It could not be loaded: open it on a page of its own";
  fold.dataset.state = fact ? "loaded" : "";
}

for (const fold of document.querySelectorAll("details.raw"))
  fold.addEventListener("toggle", () => fold.open && !fold.dataset.state && load(fold));

const keys = document.getElementById("keys");
const places = Array.from(document.querySelectorAll(".entry, .found > li, .raised > li"));
let at = -1;

function go(step) {
  at = Math.min(places.length - 1, Math.max(0, at + step));
  const place = places[at];
  if (!place) return;
  place.tabIndex = -1;
  place.focus();
  place.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
  const place = places[at];
  if (event.key === "/") document.querySelector("input[type=search]")?.focus();
  else if (event.key === "?") keys.showModal();
  else if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "Enter" && place && event.target === place) {
    const inner = place.querySelector("details");
    if (inner) inner.open = !inner.open;
    else place.querySelector("a")?.click();
  } else return;
  event.preventDefault();
});
