// The path of a sparkline in a box of 120 x 28: zero at the bottom, the highest value at the top, the newest sample at the
// right, each at its own time. Null is a gap.

const WIDTH = 120;
const TOP = 2;
const BOTTOM = 26;

/** `t_ms` and `values` have one entry per sample; the box is `seconds` wide. */
export function sparkPath(t_ms: number[], values: (number | null)[], seconds: number): string {
  const most = values.reduce<number>((max, v) => (v !== null && v > max ? v : max), 0);
  const end = t_ms.at(-1);
  if (most <= 0 || end === undefined) return "";
  let path = "";
  let pen = false;
  values.forEach((value, i) => {
    const age = end - (t_ms[i] ?? 0);
    if (value === null || age > seconds * 1000) return void (pen = false);
    const x = (WIDTH * (1 - age / (seconds * 1000))).toFixed(1);
    const y = (BOTTOM - (value / most) * (BOTTOM - TOP)).toFixed(1);
    path += `${pen ? "L" : "M"}${x} ${y}`;
    // A value between two gaps is a dot, not nothing.
    if (!pen && (values[i + 1] ?? null) === null) path += "h.1";
    pen = true;
  });
  return path;
}
