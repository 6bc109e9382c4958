// Where the marks of the bandwidth gauge stand, as shares of its length. Pure; called by BandwidthGauge.

export interface Gauge {
  now: number;
  roof: number | null;
  nominal: number | null;
  /** True when both labels have room for their words. */
  apart: boolean;
}

/** The gauge ends at the highest line known; without any line it ends at twice the present value. */
export function gaugeScale(now: number | null, roof: number | null, nominal: number | null): Gauge {
  const lines = [roof, nominal].filter((v): v is number => v !== null && v > 0);
  const end = Math.max(...lines, lines.length > 0 ? (now ?? 0) : (now ?? 0) * 2, 0);
  const at = (v: number | null) => (v !== null && v > 0 && end > 0 ? Math.min(1, v / end) : null);
  const marks = { roof: at(roof), nominal: at(nominal) };
  return {
    now: at(now) ?? 0,
    ...marks,
    apart: marks.roof === null || marks.nominal === null || Math.abs(marks.nominal - marks.roof) > 0.35,
  };
}
