"use strict";
(() => {
  const live = document.getElementById("live"), liveText = document.getElementById("live-text");
  const spoken = document.getElementById("spoken");
  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

  const span = (seconds) => {
    let left = Math.max(0, Math.round(seconds));
    const parts = [];
    for (const [size, unit] of UNITS) {
      const count = Math.floor(left / size);
      left %= size;
      if (count || parts.length) parts.push(count ? `${count} ${unit}` : "");
      if (parts.length === 2) break;
    }
    return parts.filter(Boolean).join(" ") || "0 s";
  };

  const tick = (within) => {
    for (const time of within.querySelectorAll("time")) {
      const at = Date.parse(time.dateTime);
      if (!time.title) time.title = time.textContent;
      const ahead = (at - Date.now()) / 1000;
      const shown = time.hasAttribute("data-ahead") ? `in ${span(ahead)}` : -ahead < 2 ? "just now" : `${span(-ahead)} ago`;
      if (time.textContent !== shown) time.textContent = shown;
    }
  };

  // Changes only what differs, so that focus, selection and opened details stay.
  const morph = (old, fresh) => {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes])
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    children(old, fresh);
  };
  const children = (old, fresh) => {
    const wanted = [...fresh.childNodes], present = [...old.childNodes];
    wanted.forEach((node, at) => (present[at] ? morph(present[at], node) : old.append(node)));
    present.slice(wanted.length).forEach((node) => node.remove());
  };

  let said = 0;
  const show = (sections) => {
    for (const [id, html] of Object.entries(sections)) {
      const place = document.getElementById(id), fresh = document.createElement("template");
      if (!place) continue;
      fresh.innerHTML = html;
      tick(fresh.content);
      children(place, fresh.content);
    }
    const verdict = document.querySelector("#verdict h1").textContent;
    document.title = `${verdict} · cdn-listener`;
    if (Date.now() - said > 10000 && spoken.textContent !== verdict) {
      said = Date.now();
      spoken.textContent = verdict;
    }
  };

  const state = (name, text) => { live.dataset.state = name; liveText.textContent = text; };
  const watch = () => {
    const events = new EventSource(`/events${location.search}`);
    events.addEventListener("sections", (event) => { state("on", "live"); show(JSON.parse(event.data)); });
    events.onopen = () => state("on", "live");
    events.onerror = () => {
      if (events.readyState !== EventSource.CLOSED) return state("wait", "connecting again");
      state("off", "not live");
      setTimeout(watch, 15000);
    };
    addEventListener("pagehide", () => events.close());
  };

  document.title = `${document.querySelector("#verdict h1").textContent} · cdn-listener`;
  if (location.search.includes("said=")) {
    const kept = new URLSearchParams(location.search);
    kept.delete("said");
    kept.delete("count");
    history.replaceState(null, "", kept.size ? `/?${kept}` : "/");
  }
  tick(document);
  setInterval(() => tick(document), 1000);
  watch();
})();
