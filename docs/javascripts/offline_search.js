// Browsers start no worker from a file, so a page that was opened without a server runs the theme's search worker in a
// hidden frame. scripts/docs_hooks.py writes the index as a script, because a file cannot be fetched either.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inner = frame.contentWindow;
      inner.document.open(); // otherwise Firefox replaces the document later
      inner.document.close();
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inner.document.createElement("script");
      this.loaded = new Promise((resolve) => script.addEventListener("load", () => resolve(inner)));
      script.src = url;
      (inner.document.head || inner.document.documentElement || inner.document).append(script);
    }

    postMessage(data) {
      this.loaded.then((inner) => inner.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
