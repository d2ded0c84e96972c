// What a script adds to a page that is whole without one: news as it is seen, and keys.
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

const keys = document.getElementById("keys");
const places = Array.from(document.querySelectorAll(".entry, .found > li"));
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
