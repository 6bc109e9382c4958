// Ready-made text for pointing a client at the endpoint. Called by the dialog "Use it from…".
import { strings } from "./strings";

export interface Snippet {
  title: string;
  text: string;
}

/** Single quotes for a shell, whatever is inside. */
function shell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

export function snippets(url: string, model: string): Snippet[] {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: strings.use.prompt }] });
  return [
    {
      title: strings.use.curl,
      text: `curl ${url}/chat/completions \\\n  -H 'content-type: application/json' \\\n  -d ${shell(body)}`,
    },
    {
      title: strings.use.python,
      text: [
        "from openai import OpenAI",
        "",
        `client = OpenAI(base_url=${JSON.stringify(url)}, api_key="none")`,
        "answer = client.chat.completions.create(",
        `    model=${JSON.stringify(model)},`,
        `    messages=[{"role": "user", "content": ${JSON.stringify(strings.use.prompt)}}],`,
        ")",
        "print(answer.choices[0].message.content)",
      ].join("\n"),
    },
  ];
}
