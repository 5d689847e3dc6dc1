"use strict";
// What a page shows, as named values in the fragment of its address (`#point=…&response=3`), so that the address can be
// shared. A fragment is never sent to a server, works in a file, and stays when the viewer takes its token out.
const address = (() => {
  const values = () => new URLSearchParams(location.hash.slice(1));
  return {
    has: (key) => values().has(key),
    get: (key) => values().get(key) ?? "",
    // Change some of the values; null removes one. The page is not left, and the browser's history does not grow.
    set(changes) {
      const next = values();
      for (const [key, value] of Object.entries(changes)) {
        if (value === null) next.delete(key);
        else next.set(key, value);
      }
      const fragment = next.size ? `#${next}` : "";
      if (fragment !== location.hash) history.replaceState(null, "", location.href.split("#")[0] + fragment);
    },
    // Call `show` now, and when another address of this page is entered.
    follow(show) {
      show();
      window.addEventListener("hashchange", show);
    },
  };
})();
