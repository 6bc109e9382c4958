// Branches: an edited question or another answer stands beside the old one, and the head says which branch is shown. Pure.

interface Node {
  id: string;
  parent: string | null;
}

/** From the first message to `head`. */
export function branch<T extends Node>(all: readonly T[], head: string | null): T[] {
  const byId = new Map(all.map((node) => [node.id, node]));
  const found: T[] = [];
  for (let node = byId.get(head ?? ""); node; node = byId.get(node.parent ?? "")) found.push(node);
  return found.reverse();
}

/** All messages that follow the same one, oldest first; `at` is the place of this one. */
export function versions<T extends Node>(all: readonly T[], node: T): { list: T[]; at: number } {
  const list = all.filter((other) => other.parent === node.parent);
  return { list, at: list.findIndex((other) => other.id === node.id) };
}

/** The end of the newest branch through a message. */
export function newestEnd<T extends Node>(all: readonly T[], id: string): string {
  const child = all.findLast((node) => node.parent === id);
  return child ? newestEnd(all, child.id) : id;
}
