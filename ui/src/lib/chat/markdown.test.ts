import { expect, test } from "vitest";
import { toHtml } from "./markdown";

test("raw HTML stays text", () => {
  const html = toHtml('<img src=x onerror=alert(1)> <script>alert(1)</script> <b onclick="x()">b</b>');
  expect(html).not.toMatch(/<(img|script|b)\b/i);
});
test("images are never fetched", () => {
  expect(toHtml("![pixel](https://example.com/p.png)")).not.toMatch(/<img/);
});
test("links that run code or leave the web are not links", () => {
  for (const url of ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "file:///etc/passwd", "//x", "#/settings"]) {
    expect(toHtml(`[a](${url})`)).not.toMatch(/<a /);
    expect(toHtml(`<${url}>`)).not.toMatch(/<a /);
  }
});
test("a web link opens elsewhere and tells nothing about this page", () => {
  expect(toHtml("[a](https://example.com)")).toContain('target="_blank" rel="noopener noreferrer nofollow"');
});
test("attribute values cannot be broken out of", () => {
  const html = toHtml('[a](https://example.com/"onmouseover="x) `"><b>`\n\n```"><script>\nx\n```');
  expect(html).not.toMatch(/onmouseover="x"|<script|<b>/);
});
test("code, lists and tables are drawn", () => {
  expect(toHtml("```python\nx < 1\n```")).toContain('<pre tabindex="0"><code class="language-python">x &lt; 1');
  expect(toHtml("- a\n- b")).toContain("<li>a</li>");
  expect(toHtml("|a|\n|-|\n|b|")).toContain("<table>");
});
test("code is coloured by whoever colours it, and a language with markup in its name is no markup", () => {
  const colour = (code: string, language: string) => (language === "rust" ? `<span class="hljs-keyword">${code.trim()}</span>` : null);
  expect(toHtml("```rust\nfn\n```", colour)).toContain('<span class="hljs-keyword">fn</span>');
  expect(toHtml("```other\n<b>\n```", colour)).toContain("&lt;b&gt;");
  expect(toHtml('```"><img src=x>\nx\n```', colour)).not.toMatch(/<img|language-"/);
});
