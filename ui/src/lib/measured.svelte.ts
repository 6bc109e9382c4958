// What was measured of a profile, asked of the appliance a moment after the profile has changed. Used where estimates stand.
import type { Control } from "./control";
import { rate } from "./format";
import { strings } from "./strings";
import type { Measured } from "./types/Measured";
import type { MeasuredSpeed } from "./types/MeasuredSpeed";
import type { Profile } from "./types/Profile";

const WAIT_MS = 250;
/** Free text and agents are told apart from this difference on. */
const ALIKE = 0.02;

export class MeasuredOf {
  found = $state.raw<Measured | null>(null);

  constructor(private readonly control: Control) {}

  /** Asks about a profile; the answer of an effect is what it does when the profile changes again. */
  ask(profile: Profile | null): () => void {
    let over = false;
    const timer = setTimeout(() => {
      if (!profile) return;
      this.control.measured(profile).then(
        (found) => {
          if (!over) this.found = found;
        },
        // Without an answer the estimate stands alone.
        () => {
          if (!over) this.found = null;
        },
      );
    }, WAIT_MS);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }
}

/** An agent's speed where it is another one than that of free text. */
export function agentSpeed(speed: MeasuredSpeed): number | null {
  const agent = speed.agent_tok_s;
  return agent !== null && Math.abs(agent / speed.decode_tok_s - 1) > ALIKE ? agent : null;
}

/** "42.1 tok/s measured · 51.2 tok/s for an agent". */
export function speedWords(speed: MeasuredSpeed): string {
  const t = strings.bench.measured;
  const agent = agentSpeed(speed);
  return [t.speed(rate(speed.decode_tok_s)), ...(agent === null ? [] : [t.agent(rate(agent))])].join(" · ");
}

/** Where a speed comes from. */
export function speedSource(speed: MeasuredSpeed): string {
  const t = strings.bench.measured;
  return speed.run !== null ? t.run(speed.run) : t.requests(speed.requests ?? 0);
}
