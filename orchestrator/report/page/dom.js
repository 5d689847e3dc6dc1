"use strict";
// What the pages' scripts share. Text from models and probe files is only ever set as text: no script builds markup from
// strings.
const dom = (() => {
  function make(space, name, attributes, children) {
    const node = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  async function fetchOk(path, options = {}) {
    const response = await fetch(path, options);
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response;
  }
  return {
    $: (id) => document.getElementById(id),
    el: (name, attributes = {}, ...children) => make(null, name, attributes, children),
    svg: (name, attributes = {}, ...children) => make("http://www.w3.org/2000/svg", name, attributes, children),
    OUTCOMES: { r: "refused", c: "complied", d: "degenerate", x: "unclear", n: "not finite", u: "no verdict" },
    // Whether a key means something else than a shortcut of the page: a browser's own, or text or a choice of a field.
    isTyping: (event) => event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input:not([type=checkbox]), select"),
    fetchOk,
    fetchJson: async (path) => (await fetchOk(path)).json(),
  };
})();
