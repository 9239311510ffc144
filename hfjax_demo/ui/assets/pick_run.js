(names, picked, other, wanted, isOpen) => {
  // Decided here, at one moment, from what the visitor sees: an answer of the server may be late, and what was picked
  // meanwhile stays picked while it is in the list. `names` has the newest run first.
  const kept = names.includes(picked) ? picked : null;
  const baseline = names.includes(other) ? other : "";
  if (names.includes(wanted)) return [wanted, baseline, "", isOpen];
  return [kept ?? (isOpen ? names[0] ?? null : null), baseline, wanted, isOpen];
}
