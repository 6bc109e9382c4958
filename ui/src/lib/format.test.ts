import { describe, expect, test } from "vitest";
import * as f from "./format";

const plain = (text: string) => text.replace(/\u00a0/g, " ");

describe("unknown is a dash, never a zero", () => {
  for (const [name, format] of Object.entries(f)) {
    if (typeof format !== "function") continue;
    test(name, () => {
      expect(format(null)).toBe("–");
      expect(format(undefined)).toBe("–");
      expect(format(Number.NaN)).toBe("–");
    });
  }
  test("a real zero is a zero", () => {
    expect(f.count(0)).toBe("0");
    expect(f.rate(0)).toBe("0.0");
    expect(plain(f.memory(0))).toBe("0 B");
  });
});

describe("numbers keep a steady shape", () => {
  test("counts are grouped by thousands", () => {
    expect(plain(f.count(64210))).toBe("64 210");
    expect(plain(f.count(1234567))).toBe("1 234 567");
    expect(f.count(999)).toBe("999");
  });
  test("rates have one decimal below a thousand", () => {
    expect(f.rate(148.64)).toBe("148.6");
    expect(plain(f.rate(6930.4))).toBe("6 930");
    expect(plain(f.rate(999.96))).toBe("1 000");
  });
  test("memory is binary, traffic decimal", () => {
    expect(plain(f.memory(21.8 * 2 ** 30))).toBe("21.8 GiB");
    expect(plain(f.memory(94 * 2 ** 20))).toBe("94 MiB");
    expect(plain(f.memory(9.4 * 2 ** 20))).toBe("9.4 MiB");
    expect(plain(f.traffic(4.3e9))).toBe("4.3 GB");
    expect(plain(f.traffic(12_300_000))).toBe("12 MB");
  });
  test("durations choose their unit", () => {
    expect(plain(f.seconds(0.0033))).toBe("3 ms");
    expect(plain(f.seconds(0.0995))).toBe("0.10 s");
    expect(plain(f.seconds(0.312))).toBe("0.31 s");
    expect(plain(f.seconds(0.999))).toBe("1.0 s");
    expect(plain(f.seconds(42.2))).toBe("42 s");
    expect(plain(f.seconds(192))).toBe("3 min 12 s");
    expect(plain(f.uptime(11520))).toBe("3 h 12 min");
    expect(plain(f.uptime(187200))).toBe("2 d 4 h");
  });
  test("a countdown never shows a fraction or less than nothing", () => {
    expect(plain(f.countdown(2.1))).toBe("3 s");
    expect(plain(f.countdown(-4))).toBe("0 s");
  });
  test("context is in K when it is a multiple of 1024, and in M", () => {
    expect(f.contextLength(131072)).toBe("128K");
    expect(f.contextLength(1048576)).toBe("1M");
    expect(plain(f.contextLength(1048576 + 1024))).toBe("1 025K");
    expect(plain(f.contextLength(4000))).toBe("4 000");
  });
});

test("a list tells the time of today, the day of this year, and the year of others", () => {
  const now = new Date(2026, 10, 27, 14, 5).getTime();
  expect(f.when(new Date(2026, 10, 27, 9, 3).getTime(), now)).toBe("09:03");
  expect(f.when(new Date(2026, 10, 26, 23, 59).getTime(), now)).toBe("Nov 26");
  expect(f.when(new Date(2025, 0, 2).getTime(), now, "de")).toBe("2. Jan. 2025");
});
