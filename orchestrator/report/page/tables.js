"use strict";
// Sort tables by a click on a heading, and filter their rows. Without this script the tables are complete and unsorted.
const tables = (() => {
  const known = new Map(); // by table element

  // The text as something to sort by: a number if the column holds numbers. null comes last in both orders.
  function keyOf(cell, isNumber) {
    const text = (cell?.dataset.sort ?? cell?.textContent ?? "").trim();
    if (!isNumber) return text || null;
    const found = text.replaceAll("−", "-").replaceAll(",", "").match(/[-+]?\d+(\.\d+)?/);
    return found && Number(found[0]);
  }
  function compare(a, b, order) {
    if (a === null || b === null) return (a === null) - (b === null);
    return order * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  }

  // Make a table sortable, and filtered by the fields of a form: a search, and choices of a value of the rows' dataset.
  // The address keeps both under the table's name. `changed` is called with the number of rows that are shown.
  function enhance(table, form = null, changed = () => {}) {
    const name = table.dataset.name, fields = form ? [...form.elements].filter((field) => field.name) : [];
    const headings = [...table.tHead.rows[0].cells], places = new WeakMap();
    let column = -1, order = 1;

    function apply() {
      const rows = [...table.tBodies[0].rows];
      rows.forEach((row, i) => places.has(row) || places.set(row, i));
      const keys = new Map(rows.map((row) => [row, column < 0 ? null : keyOf(row.cells[column], headings[column].matches(".number, [data-sort]"))]));
      rows.sort((a, b) => compare(keys.get(a), keys.get(b), order) || places.get(a) - places.get(b));
      headings.forEach((heading, i) => {
        if (i === column) heading.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
        else heading.removeAttribute("aria-sort");
      });
      let shown = 0;
      for (const row of rows) {
        const fits = fields.every((field) => {
          if (field.type !== "search") return !field.value || row.dataset[field.name] === field.value;
          return field.value.toLowerCase().split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word));
        });
        row.hidden = !fits;
        shown += fits;
      }
      table.tBodies[0].append(...rows);
      changed(shown);
    }
    function keep() {
      const values = fields.map((field) => [`${name}-${field.name}`, field.value || null]);
      address.set({ ...Object.fromEntries(values), [`${name}-sort`]: column < 0 ? null : `${order < 0 ? "-" : ""}${column + 1}` });
    }
    headings.forEach((heading, i) => {
      if (!heading.textContent) return;
      const button = dom.el("button", { type: "button" }, ...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => { // ascending, descending, then as it was
        if (column !== i) [column, order] = [i, 1];
        else if (order > 0) order = -1;
        else [column, order] = [-1, 1];
        keep();
        apply();
      });
    });
    for (const field of fields)
      field.addEventListener("input", () => {
        keep();
        apply();
      });
    form?.addEventListener("submit", (event) => event.preventDefault());
    address.follow(() => {
      for (const field of fields) field.value = address.get(`${name}-${field.name}`);
      const sort = Number(address.get(`${name}-sort`)) || 0;
      [column, order] = headings[Math.abs(sort) - 1] ? [Math.abs(sort) - 1, Math.sign(sort)] : [-1, 1];
      apply();
    });
    known.set(table, apply);
  }

  // A filter above a table that asks for one: its form, and what shows the number of rows.
  function filterFor(table) {
    if (!("filter" in table.dataset)) return [];
    const field = dom.el("input", { type: "search", name: "text", autocomplete: "off", spellcheck: "false" });
    const count = dom.el("span", { role: "status" });
    const form = dom.el("form", { class: "controls filter-rows" }, dom.el("label", {}, "Filter", field), count);
    table.parentElement.before(form);
    const total = table.tBodies[0].rows.length;
    return [form, (shown) => (count.textContent = shown < total ? `${shown} of ${total} rows` : "")];
  }

  for (const table of document.querySelectorAll("table[data-name]:not([data-form])")) enhance(table, ...filterFor(table));
  return { enhance, apply: (table) => known.get(table)() };
})();
