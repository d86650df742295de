// Browsers start no worker from a folder of files, so the search would not work there: it runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      this.frame = frame
      const worker = frame.contentWindow
      worker.document.open()
      worker.document.write(`<!doctype html><body><script>
        self.postMessage = data => frameElement.worker.dispatchEvent(new parent.MessageEvent("message", {data}))
      <\/script><script src="${new URL(url, location.href)}"><\/script></body>`)
      frame.worker = this
      this.waiting = []
      frame.addEventListener("load", () => {
        for (const data of this.waiting) this.send(data)
        this.waiting = null
      })
      worker.document.close()
    }
    send(data) {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data}))
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.send(data)
    }
    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
