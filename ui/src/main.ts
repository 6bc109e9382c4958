// Entry of the window: takes the token out of the address, sets the theme, mounts the app.
import { mount } from "svelte";
import "./styles/base.css";
import App from "./App.svelte";
import { strings } from "./lib/strings";
import { styled } from "./lib/styled";
import { startTheme } from "./lib/theme";
import { takeToken } from "./lib/token";

const token = takeToken();
document.documentElement.lang = strings.language;
startTheme();
const target = document.getElementById("app");
await styled();
if (target) mount(App, { target, props: { token } });
