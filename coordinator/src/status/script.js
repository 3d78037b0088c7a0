// Puts in what has changed. Without it the page is the same, but stands still.
"use strict";

(() => {
  const kind = document.documentElement.dataset.page;
  const live = document.getElementById("live");
  let closedBatch;

  // What a replaced panel must keep: what is open, what is focused.
  const keep = (panel) => ({
    open: [...panel.querySelectorAll("details[open][id]")].map((details) => details.id),
    focused: panel.contains(document.activeElement) ? document.activeElement.id : "",
    scrolled: [...panel.querySelectorAll(".scroll")].map((box) => box.scrollLeft),
  });

  const restore = (panel, kept) => {
    for (const id of kept.open) document.getElementById(id)?.setAttribute("open", "");
    panel.querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = kept.scrolled[index] ?? 0; });
    rove(panel);
    if (!kept.focused) return;
    const element = document.getElementById(kept.focused);
    if (element && groupOf(element)) moveTo(element);
    else element?.focus({ preventScroll: true });
  };

  const replace = (id, html) => {
    const old = document.getElementById(id);
    if (!old) return location.reload(); // the page is older than its panels
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById(id);
    if (!fresh || old.outerHTML === fresh.outerHTML) return;
    if (id === "headline") return replaceHeadline(old, fresh);
    const kept = keep(old);
    old.replaceWith(fresh);
    restore(fresh, kept);
  };

  // A live region must stay in the page: only its words change.
  const replaceHeadline = (old, fresh) => {
    const [was, is] = [old.querySelector("[role=status]"), fresh.querySelector("[role=status]")];
    if (was.innerHTML !== is.innerHTML) was.innerHTML = is.innerHTML;
    old.className = fresh.className;
    old.querySelector(".findings")?.remove();
    const findings = fresh.querySelector(".findings");
    if (findings) old.append(findings);
  };

  const reloadMarket = async () => {
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".panels");
    const old = document.querySelector(".panels");
    const kept = keep(old);
    old.replaceWith(fresh);
    restore(fresh, kept);
  };

  // A strip or a table with one tab stop: arrows, Home and End move within it.
  const items = (group) => [...group.querySelectorAll("li, td > a")];
  const groupOf = (item) => item.closest?.("[data-roving]");

  const moveTo = (item) => {
    for (const other of items(groupOf(item))) other.tabIndex = other === item ? 0 : -1;
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest", inline: "nearest" });
    turnTip(item);
  };

  // A tip at the right edge opens to the left.
  const turnTip = (item) => {
    const tip = item.querySelector(".tip");
    tip?.classList.toggle("left", item.getBoundingClientRect().left > innerWidth / 2);
  };

  const rove = (within) => {
    for (const group of within.querySelectorAll("[data-roving]")) {
      const all = items(group);
      const stop = all[0]?.matches("li") ? all.length - 1 : 0; // the newest slot, the largest market
      all.forEach((item, index) => { item.tabIndex = index === stop ? 0 : -1; });
    }
  };

  const inRow = (item, row) => row?.cells[item.parentElement.cellIndex]?.querySelector("a");

  document.addEventListener("keydown", (event) => {
    const item = event.target;
    const group = groupOf(item);
    if (!group || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = items(group);
    const at = all.indexOf(item);
    const row = item.closest("tr");
    const to = {
      ArrowLeft: all[at - 1],
      ArrowRight: all[at + 1],
      ArrowUp: inRow(item, row?.previousElementSibling),
      ArrowDown: inRow(item, row?.nextElementSibling),
      Home: all[0],
      End: all.at(-1),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    moveTo(to);
  });
  for (const name of ["mouseover", "focusin"]) {
    document.addEventListener(name, (event) => {
      const item = event.target.closest?.(".slot, .heatmap a");
      if (item) turnTip(item);
    });
  }

  rove(document);
  const say = (words) => { if (live.textContent !== words) live.textContent = words; };
  const events = new EventSource("/events");
  events.addEventListener("update", (event) => {
    say("Live. Times are UTC.");
    const update = JSON.parse(event.data);
    if (kind === "status") {
      for (const [id, html] of Object.entries(update.panels)) replace(id, html);
    } else if (closedBatch !== undefined && update.closed_batch !== closedBatch) {
      reloadMarket();
    }
    closedBatch = update.closed_batch;
  });
  events.addEventListener("error", () => say("Not live: connecting again. Times are UTC."));
  addEventListener("pagehide", () => events.close());
})();
