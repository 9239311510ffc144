// Writes the link to these inputs: the same names and encoding as permalink.encode_permalink, made in the browser, so that
// nothing leaves it until the visitor shares the link.
(...values) => {
  const { fields, always, defaults, base } = __LINK__;
  const pairs = [];
  fields.forEach((name, index) => {
    let value = values[index];
    if (value === null || value === undefined || value === "") {
      if (!always.includes(name)) return;
      value = "";
    }
    if (!always.includes(name) && value === defaults[name]) return;
    const text = typeof value === "boolean" ? String(Number(value)) : String(value);
    pairs.push(`${name}=${encodeURIComponent(text.toWellFormed ? text.toWellFormed() : text)}`);
  });
  const start = base || `${window.location.origin}${window.location.pathname}`;
  const link = `${start}?${pairs.join("&")}`;
  navigator.clipboard?.writeText(link).catch(() => {});  // refused in some iframes: the link is shown as well
  return link;
}
