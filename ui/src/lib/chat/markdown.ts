// Turns an answer into HTML that cannot do harm: markdown-it with raw HTML off and no images, so nothing is ever fetched.
// Called by the chat's Answer component only, which is the one place where HTML is set.
import MarkdownIt from "markdown-it";
import { strings } from "../strings";

/** Colours a block of code: escaped HTML, or null to leave it plain. */
export type Colour = (code: string, language: string) => string | null;

let colour: Colour | null = null;
const markdown = new MarkdownIt({ html: false, linkify: false, typographer: false, breaks: true }).disable(["image"]);
const escape = markdown.utils.escapeHtml;

const shownLink = markdown.renderer.rules.link_open;
markdown.renderer.rules.link_open = (tokens, index, options, env, self) => {
  tokens[index]?.attrSet("target", "_blank");
  tokens[index]?.attrSet("rel", "noopener noreferrer nofollow");
  return shownLink ? shownLink(tokens, index, options, env, self) : self.renderToken(tokens, index, options);
};
// A table may be wider than the column: it scrolls by itself, and by keyboard.
markdown.renderer.rules.table_open = () => '<div class="wide" tabindex="0"><table>';
markdown.renderer.rules.table_close = () => "</table></div>";
// Code names its language and can be copied; Answer listens for the button.
markdown.renderer.rules.fence = (tokens, index) => {
  const { content = "", info = "" } = tokens[index] ?? {};
  const language = /^[\w+#.-]{1,30}/.exec(info.trim())?.[0] ?? "";
  const code = (language && colour?.(content, language.toLowerCase())) || escape(content);
  const name = language ? ` class="language-${escape(language)}"` : "";
  const copy = `<button class="plain" type="button" data-copy aria-label="${escape(strings.chat.copyCode)}">${escape(strings.endpoint.copy)}</button>`;
  return `<div class="code"><p>${escape(language)}${copy}</p><pre tabindex="0"><code${name}>${code}</code></pre></div>\n`;
};
markdown.renderer.rules.code_block = (tokens, index) => `<pre tabindex="0"><code>${escape(tokens[index]?.content ?? "")}</code></pre>\n`;

// Only addresses a person can judge: no javascript:, data:, file: or relative links into this page.
markdown.validateLink = (url) => /^(https?:\/\/|mailto:)/i.test(url.trim());

export function toHtml(text: string, withColour: Colour | null = null): string {
  colour = withColour;
  try {
    return markdown.render(text);
  } finally {
    colour = null;
  }
}
