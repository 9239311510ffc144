() => {
  // `?embed=1` is for iframes: the page without its header.
  if (new URLSearchParams(window.location.search).get("embed") === "1") document.body.classList.add("is-embedded");

  // The device line stays true while nothing happens on this page: asked here, because with every event of its own Gradio 6.31
  // takes away what it has said at a field.
  const askDevices = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(`${window.gradio_config?.root ?? ""}/gradio_api/healthz`);
      const line = document.querySelector("#device-line .device-line");
      const words = (await answer.json()).line;
      if (line && words) line.textContent = words;
    } catch { /* The server is away; Gradio says so itself. */ }
  };
  setInterval(askDevices, 10000);
  window.addEventListener("focus", askDevices);
}
