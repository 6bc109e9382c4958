import { describe, expect, test } from "vitest";
import { SCENES, snapshot, type Scene } from "../../dev/scenes.ts";
import { awayView, engineView, modelName } from "./engine-view";

const view = (scene: Scene) => engineView(snapshot(scene));

describe("every state says what it is and has one button that names its effect", () => {
  for (const scene of SCENES) {
    test(scene, () => {
      const { word, button, tone } = view(scene);
      expect(word).not.toBe("");
      expect(button).toMatch(/^(Start|Stop|Cancel|Retry|Choose)\b.+/);
      expect(tone).toMatch(/^(off|busy|ok|warn|err)$/);
    });
  }
});
test("start, stop and retry name the model", () => {
  expect(view("stopped").button).toBe("Start Ember");
  expect(view("idle").button).toBe("Stop Ember");
  expect(view("error").button).toBe("Retry Ember");
});
test("no model leads to choosing one", () => {
  expect(view("no-model")).toMatchObject({ action: "choose", serving: false });
});
test("a fault brings its sentence and its next step", () => {
  for (const scene of ["error", "degraded"] as const) {
    const shown = view(scene);
    expect(shown.fault).not.toBeNull();
    expect(shown.message).toBe(shown.fault?.message);
    expect(shown.next).toBe(shown.fault?.next_step);
  }
});
test("idle, busy and prefill can be told apart", () => {
  expect(view("idle").sub).toMatch(/^idle/);
  expect(view("busy").sub).toMatch(/^2 running/);
  expect(view("prefill").sub).toMatch(/^prefill 62/);
});
test("stopping counts down and can be cut short", () => {
  expect(view("stopping")).toMatchObject({ action: "stop_now", button: "Stop now" });
  expect(view("stopping").message).toMatch(/^Finishing 2 requests; cut off in \d+\ss\.$/);
});
test("a restart says which attempt it is", () => {
  expect(view("restarting").sub).toBe("attempt 1 of 3");
});
test("only a state that answers requests counts as serving", () => {
  expect(SCENES.filter((scene) => view(scene).serving)).toEqual(["idle", "busy", "prefill", "degraded", "spark", "away"]);
});
test("an unreachable machine says since when, and that it connects again", () => {
  const away = awayView(true, "14:02:11", false);
  expect(away.message).toContain("14:02:11");
  expect(away.next).toMatch(/by itself/);
  expect(awayView(false, null, true).kind).toBe("connecting");
  expect(awayView(false, null, false).kind).toBe("unreachable");
});
test("a model that is not on disk is named by the end of its path", () => {
  expect(modelName({ ...snapshot("no-model"), profile: { ...snapshot("no-model").profile, model: "/data/models/tiny/" } })).toBe("tiny");
});
