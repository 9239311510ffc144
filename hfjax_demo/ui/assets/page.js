() => {
  // `?embed=1` is for iframes: the page without its header.
  if (new URLSearchParams(window.location.search).get("embed") === "1") document.body.classList.add("is-embedded");
}
