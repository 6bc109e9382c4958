// Turns an answer into HTML that cannot do harm: markdown-it with raw HTML off and no images, so nothing is ever fetched.
// Called by the chat's Answer component only, which is the one place where HTML is set.
import MarkdownIt from "markdown-it";

const markdown = new MarkdownIt({ html: false, linkify: false, typographer: false, breaks: true }).disable(["image"]);

const shownLink = markdown.renderer.rules.link_open;
markdown.renderer.rules.link_open = (tokens, index, options, env, self) => {
  tokens[index]?.attrSet("target", "_blank");
  tokens[index]?.attrSet("rel", "noopener noreferrer nofollow");
  return shownLink ? shownLink(tokens, index, options, env, self) : self.renderToken(tokens, index, options);
};
// A table may be wider than the column: it scrolls by itself, and by keyboard.
markdown.renderer.rules.table_open = () => '<div class="wide" tabindex="0"><table>';
markdown.renderer.rules.table_close = () => "</table></div>";
const fence = markdown.renderer.rules.fence;
markdown.renderer.rules.fence = (tokens, index, options, env, self) =>
  (fence?.(tokens, index, options, env, self) ?? "").replace(/^<pre/, '<pre tabindex="0"');

// Only addresses a person can judge: no javascript:, data:, file: or relative links into this page.
markdown.validateLink = (url) => /^(https?:\/\/|mailto:)/i.test(url.trim());

export function toHtml(text: string): string {
  return markdown.render(text);
}
