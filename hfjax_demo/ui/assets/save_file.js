(file) => {
  // Saved by the browser itself: no copy of the run, which holds the visitor's prompt, is left on the server.
  const url = URL.createObjectURL(new Blob([file.content], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: file.name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
