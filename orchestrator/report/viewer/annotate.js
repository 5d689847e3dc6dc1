"use strict";
// The reveal switch, and verdicts of people: the keys r, c, d and u judge the response that is pointed to. Loaded only
// where the viewer takes verdicts.
(() => {
  const { $, el } = dom;
  const VERDICTS = { r: "refused", c: "complied", d: "degenerate", u: "unclear" };
  const note = (text) => ($("annotate-note").textContent = text);
  let people = []; // verdicts on the responses at the point that is open
  let latest = 0;

  $("reveal").addEventListener("change", () => window.landscape.reveal($("reveal").checked));
  $("annotator").value = localStorage.getItem("annotator") ?? "";
  $("annotator").addEventListener("change", () => localStorage.setItem("annotator", $("annotator").value));

  // Write what people have said below each response that is shown.
  function label() {
    const { set } = window.landscape.current();
    for (const item of $("detail-list").children) {
      const own = people.filter(([s, prompt]) => s === set && prompt === Number(item.dataset.index));
      let line = item.querySelector(".people");
      if (!line && own.length) {
        line = el("p", { class: "people" });
        item.append(line);
      }
      if (line) line.textContent = own.map(([, , person, verdict]) => `${person}: ${verdict}`).join(" · ");
    }
  }
  async function read() {
    const ticket = ++latest, { point } = window.landscape.current();
    const newer = await dom.fetchJson(`points/${point}/people`).catch(() => []);
    if (ticket !== latest) return;
    people = newer;
    label();
  }
  document.addEventListener("point-opened", () => {
    note("");
    people = [];
    read();
  });
  document.addEventListener("responses-shown", label);

  async function judge(verdict) {
    const { point, set, index } = window.landscape.current(), annotator = $("annotator").value.trim();
    if (index === null) return note("Point to a response first: j or ↓ leads to the next one.");
    if (!$("reveal").checked) return note("Tick “Whole responses” first: a verdict is about all of one.");
    if (!annotator) return note("Write your name first.");
    const response = await fetch(`points/${point}/people`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ set, prompt: index, verdict, annotator }),
    }).catch(() => null);
    if (!response) return note("Not stored: the viewer does not answer.");
    if (!response.ok) return note(`Not stored: ${await response.text()}`);
    note(`Stored: ${verdict}.`);
    const now = window.landscape.current();
    if (now.point === point && now.set === set && now.index === index) window.landscape.next();
    read();
  }
  for (const button of document.querySelectorAll("#annotate button")) button.addEventListener("click", () => judge(button.dataset.verdict));
  document.addEventListener("keydown", (event) => {
    if (!$("detail").open || event.repeat || dom.isTyping(event)) return;
    if (event.key in VERDICTS) judge(VERDICTS[event.key]);
  });
})();
