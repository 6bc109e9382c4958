// How pages reach the live picture: App provides it once, `useLive()` reads it.
import { getContext, setContext } from "svelte";
import type { Live } from "./live.svelte";

const KEY = Symbol("live");

export function provideLive(live: Live): Live {
  return setContext(KEY, live);
}

export function useLive(): Live {
  return getContext<Live>(KEY);
}
