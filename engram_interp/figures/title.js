// The lines of a title in a place of this width in pixels, of which a letter takes 8.
const titleLines = (text, width) => {
  const room = Math.max(20, width / 8 - 8);
  const lines = [""];
  for (const word of text.split(/<br>|\s+/)) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= room) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) && " ") + word;
  }
  return lines;
};
