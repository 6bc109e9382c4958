// Accessibility checks: axe over the whole page (WCAG 2.1 A and AA), and whether the focused element shows it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const source = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Fails with one line per violation: rule, element, why. */
export async function accessible(page, what) {
  await page.evaluate(source);
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }),
  );
  const lines = violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 160)} (${n.failureSummary?.replace(/\s+/g, " ")})`));
  assert.deepEqual(lines, [], `${what}: ${lines.length} accessibility violations`);
}

/** The focused element's role, name and whether its outline can be seen. */
export function focused(page) {
  return page.evaluate(() => {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    return {
      tag: element.tagName,
      text: (element.getAttribute("aria-label") ?? element.textContent ?? "").trim(),
      id: element.id,
      visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
    };
  });
}

/** Presses Tab until `want(focus)`; every stop on the way must show its focus. */
export async function tabTo(page, want, most = 60) {
  for (let i = 0; i < most; i++) {
    await page.keyboard.press("Tab");
    const focus = await focused(page);
    if (focus.tag === "BODY") continue;
    assert.ok(focus.visible, `focus cannot be seen on ${focus.tag} "${focus.text.slice(0, 60)}"`);
    if (want(focus)) return focus;
  }
  assert.fail(`${most} presses of Tab did not reach it`);
}
