"use strict";
// The list of sweeps, and what a sweep's page adds to the report: progress, newer numbers, and a search over all
// responses.
(() => {
  const { $, el, OUTCOMES, fetchOk, fetchJson } = dom;
  const INTERVAL = 2000; // milliseconds between two requests about a running sweep
  const count = (x) => x.toLocaleString("en");

  // Call `update` repeatedly for as long as it returns true: less often if responses are slow, and not while the page is
  // hidden.
  function poll(update, wait = INTERVAL) {
    setTimeout(async () => {
      if (document.hidden) return poll(update);
      const began = performance.now();
      try {
        if (await update()) poll(update, Math.max(INTERVAL, 4 * (performance.now() - began)));
      } catch {
        poll(update, 5 * INTERVAL); // the viewer was stopped, or the study moved: it may come back
      }
    }, wait);
  }

  if ($("sweeps")) listSweeps();
  else followSweep();

  // The server renders the rows. While the page is open, they are replaced by newer ones.
  function listSweeps() {
    const table = $("sweeps-table"), rows = () => $("sweeps").rows;
    const total = () => (table.dataset.total ? Number(table.dataset.total) : null); // null: not counted yet
    const isPartial = () => total() === null || rows().length < total();
    const showCount = (shown) => {
      const running = [...rows()].filter((row) => row.dataset.state === "running").length;
      let summary = `${count(shown)} of ${count(rows().length)} sweeps`;
      if (total() === null) summary = "reading the sweeps";
      else if (isPartial()) summary = `reading ${count(rows().length)} of ${count(total())} sweeps`;
      if (running) summary += `, ${running} running`;
      $("sweeps-count").textContent = rows().length || isPartial()
        ? summary
        : "No sweep yet: `python -m orchestrator run` creates one.";
    };
    const localTimes = () => {
      for (const time of document.querySelectorAll("time"))
        time.textContent = new Date(time.dateTime).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    };
    const unchanged = (newer) => newer.dataset.total === table.dataset.total && newer.tBodies[0].innerHTML === received;
    let received = $("sweeps").innerHTML;
    localTimes();
    tables.enhance(table, $("sweeps-filter"), showCount);
    if ("live" in table.dataset) poll(async () => {
      const text = await (await fetchOk("/")).text();
      const newer = new DOMParser().parseFromString(text, "text/html").getElementById("sweeps-table");
      if (unchanged(newer)) return true;
      const focused = document.activeElement?.getAttribute("href");
      const boxes = () => [...$("sweeps").querySelectorAll("input")];
      const chosen = boxes().filter((box) => box.checked).map((box) => box.value);
      received = newer.tBodies[0].innerHTML;
      table.dataset.total = newer.dataset.total;
      $("sweeps").replaceChildren(...newer.tBodies[0].rows);
      for (const box of boxes()) box.checked = chosen.includes(box.value);
      localTimes();
      tables.apply(table);
      if (focused) [...$("sweeps").querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
      return true;
    }, isPartial() ? 500 : 2 * INTERVAL);
  }

  function followSweep() {
    let before = JSON.parse($("state-data").textContent);
    const showProgress = ({ status, refining }) => {
      $("progress").hidden = status.state === "complete";
      Object.assign($("progress-bar"), { max: status.tasks || 1, value: status.done });
      $("progress-text").textContent = [status.progress, refining].filter(Boolean).join(" · ");
    };
    showProgress(before);
    const changing = ({ status, whole }) => status.state === "running" || !whole;
    const ended = ({ status, whole }) => status.state === "complete" && whole;
    if (!ended(before)) { // an interrupted sweep may be continued
      poll(async () => {
        const now = await fetchJson("now");
        const hasStopped = !changing(now) && (changing(before) || ended(now));
        showProgress(now);
        if (JSON.stringify(now.chart) !== JSON.stringify(before.chart)) {
          window.landscape.show(now.chart);
          $("tiles").replaceChildren(...now.tiles.map(tile));
          $("verdict").textContent = now.verdict;
          $("narrative").textContent = now.narrative;
          $("warnings").replaceChildren(...now.warnings.map((text) => el("p", { class: "warning" }, text)));
        }
        before = now;
        if (!hasStopped) return true;
        const reload = () => location.reload(); // for the tables, which show the numbers as they were when the page was opened
        if ($("detail").open) $("detail").addEventListener("close", reload, { once: true });
        else reload();
        return false;
      });
    }
    const tile = ({ name, value, unit, note, style }) => {
      const shown = el("dd", { class: `value${style}` }, value, ...(unit ? [el("small", {}, ` ${unit}`)] : []));
      return el("div", {}, el("dt", {}, name), shown, el("dd", { class: "note" }, note));
    };

    let latest = 0;
    const keys = ["text", "group", "category", "outcome"]; // in the address: search-text, ...
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      const values = keys.map((key) => [`search-${key}`, $(`search-${key}`)?.value || null]);
      address.set({ ...Object.fromEntries(values), "search-text": $("search-text").value });
      search();
    });
    async function search() {
      const ticket = ++latest;
      const query = keys.map((key) => [key, $(`search-${key}`)?.value ?? ""]).filter(([, value]) => value);
      if ($("reveal")?.checked) query.push(["reveal", "true"]);
      $("search-count").textContent = "searching …";
      const { total, found } = await fetchJson(`search?${new URLSearchParams(query)}`).catch(() => ({ total: null, found: [] }));
      if (ticket !== latest) return;
      const few = found.length < total ? `the first ${count(found.length)} of ` : "";
      $("search-count").textContent = total ? `${few}${count(total)} ${total === 1 ? "response" : "responses"}` : "No matching response.";
      if (total === null) $("search-count").textContent = "Not searched: the viewer does not answer.";
      remaining = found.map(hit);
      $("search-found").replaceChildren();
      more();
    }
    let remaining = [];
    address.follow(() => {
      if (!address.has("search-text")) return;
      const shown = keys.map((key) => $(`search-${key}`)).filter((field) => field && field.value !== address.get(field.id));
      for (const field of shown) field.value = address.get(field.id);
      if (shown.length || !latest) search();
    });
    const more = () => {
      $("search-found").append(...remaining.splice(0, 20));
      $("search-more").hidden = !remaining.length;
    };
    $("search-more").addEventListener("click", more);
    const hit = ({ point, set, index, prompt, category, asked, response, outcome }) => {
      const name = window.landscape.name(point, set);
      const button = el("button", { type: "button" }, name);
      button.addEventListener("click", () => window.landscape.open(point, set, index));
      const where = el("p", { class: "where" }, button, el("span", { class: `outcome was-${outcome}` }, OUTCOMES[outcome]), el("span", { dir: "auto" }, [category, asked].filter(Boolean).join(" · ")));
      const text = el("p", { class: response ? "response" : "response empty", dir: "auto" }, response || "(empty)");
      return el("li", {}, el("p", { class: "prompt", dir: "auto" }, prompt), text, where);
    };
  }
})();
