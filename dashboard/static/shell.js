// What the browser does around Streamlit's page: says when the connection is gone, offers the theme,
// keeps half-typed text out of the history, and removes the first text once the page is there.
// Served before Streamlit's own scripts; decision 13 says why each of these is here.
"use strict";
(() => {
  const POLL_MS = 2500;
  const TIMEOUT_MS = 2400;
  const PHONE_PIXELS = 640;
  const TABLET_PIXELS = 1100;
  const THEMES = ["System", "Light", "Dark"];
  const THEME_KEY = "echo-markets-theme";
  const app = () => document.querySelector('[data-testid="stApp"]');

  // -- theme: Streamlit keeps its choice for each path; here it is one for all pages ---------------

  const streamlitKey = `stActiveTheme-${location.pathname}-v2`;

  function readTheme() {
    try {
      const chosen = localStorage.getItem(THEME_KEY);
      return THEMES.includes(chosen) ? chosen : "System";
    } catch {
      return "System"; // storage is blocked
    }
  }

  function applyTheme() {
    const theme = readTheme();
    document.documentElement.dataset.echoTheme = theme.toLowerCase();
    try {
      if (theme === "System") localStorage.removeItem(streamlitKey);
      else localStorage.setItem(streamlitKey, JSON.stringify(theme));
    } catch {
      // storage is blocked: the system decides
    }
  }

  function addThemeSwitch() {
    const label = document.createElement("label");
    label.append("Theme ");
    const select = document.createElement("select");
    for (const theme of THEMES) select.add(new Option(theme, theme));
    select.value = readTheme();
    select.addEventListener("change", () => {
      try {
        localStorage.setItem(THEME_KEY, select.value);
      } catch {
        return;
      }
      location.reload(); // the address holds every filter
    });
    label.append(select);
    const place = document.createElement("aside"); // all of a page belongs to a landmark
    place.id = "echo-theme";
    place.append(label);
    document.body.append(place);
  }

  applyTheme();

  // -- server: opened at the address of a page, Streamlit would look for it below that page first ----------

  window.__streamlit = { BACKEND_BASE_URL: new URL("./", location.href).href };

  // -- width: tables are drawn with the columns that the server sends, so it must know the screen --------

  const noteWidth = () => {
    const screen = innerWidth <= PHONE_PIXELS ? "phone" : innerWidth <= TABLET_PIXELS ? "tablet" : "desk";
    document.cookie = `echo-markets-screen=${screen}; path=/; SameSite=Lax`;
  };
  noteWidth();
  addEventListener("resize", noteWidth);

  // -- history: one entry for each view that a visitor chose. Streamlit writes a changed filter over the
  // -- present entry, and adds entries for the states of a text that is being typed ------------------

  const isText = (element) => element.matches?.('[data-testid="stTextInput"] input') ?? false;
  let isTyping = false; // since the first letter, until the box is left
  let isChanged = false; // whether the action has an entry of its own already
  const beginAction = () => {
    isTyping = isChanged = false;
  };
  const endAction = () => {
    isTyping = false;
    isChanged = true; // what Streamlit writes by itself, also after Back, is no new view
  };
  endAction();
  addEventListener("pointerdown", beginAction, true);
  addEventListener("keydown", (event) => isText(event.target) || beginAction(), true);
  addEventListener("input", (event) => {
    if (!isText(event.target) || isTyping) return;
    isTyping = true;
    isChanged = false;
  }, true);
  addEventListener("focusout", (event) => isText(event.target) && endAction(), true);
  addEventListener("popstate", endAction, true);

  const pushState = history.pushState.bind(history);
  const replaceState = history.replaceState.bind(history);
  function writeAddress(write, state, title, url) {
    const address = new URL(url ?? location.href, location.href);
    if (address.pathname !== location.pathname) {
      endAction();
      write(state, title, url);
    } else if (isChanged || address.href === location.href) {
      replaceState(state, title, url);
    } else {
      isChanged = true;
      pushState(state, title, url);
    }
  }
  history.pushState = (...values) => writeAddress(pushState, ...values);
  history.replaceState = (...values) => writeAddress(replaceState, ...values);

  // -- connection ---------------------------------------------------------------------------------

  let goneSince = null;
  let isChecking = false;

  function showConnection() {
    // the line of health is as old as the connection: the style sheet hides it
    document.documentElement.toggleAttribute("data-echo-offline", goneSince !== null);
    let note = document.getElementById("echo-connection");
    if (goneSince === null) {
      note?.remove();
      return;
    }
    if (note) return;
    note = document.createElement("div");
    note.id = "echo-connection";
    note.setAttribute("role", "alert");
    const time = goneSince.toISOString().slice(11, 19);
    note.textContent = `No connection to the dashboard since ${time} UTC; trying again. The figures are as of then.`;
    document.body.append(note);
  }

  async function checkConnection() {
    // a page that still loads its scripts may keep a small request waiting on a slow network
    if (isChecking || document.visibilityState !== "visible" || !app()) return;
    isChecking = true;
    const startedAt = new Date();
    let isThere = false;
    let isSlow = false;
    try {
      const answer = await fetch("livez", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
      isThere = answer.ok;
    } catch (error) {
      isSlow = error.name === "TimeoutError" && document.querySelector('[data-testid="stSkeleton"]') !== null;
    }
    isChecking = false;
    if (isThere) goneSince = null;
    else if (!isSlow) goneSince ??= startedAt;
    showConnection();
  }

  setInterval(checkConnection, POLL_MS);
  for (const name of ["online", "offline"]) addEventListener(name, checkConnection);
  document.addEventListener("visibilitychange", checkConnection);

  // -- the first text, until the page has a title or a problem to show ------------------------------

  function isPageThere() {
    return document.querySelector('[data-testid="stMain"] :is(h1, h2, [data-testid="stAlert"])') !== null;
  }

  // The trend in a metric card repeats its figure; Streamlit gives its points a role without a name.
  function hideTrends() {
    for (const trend of document.querySelectorAll('[data-testid="stMetric"] svg:not([aria-hidden])')) {
      trend.setAttribute("aria-hidden", "true");
    }
  }

  addEventListener("DOMContentLoaded", () => {
    addThemeSwitch();
    let isDue = false;
    new MutationObserver(() => {
      if (isDue) return;
      isDue = true;
      requestAnimationFrame(() => {
        isDue = false;
        hideTrends();
        if (isPageThere()) document.getElementById("echo-first")?.remove();
      });
    }).observe(document.body, { childList: true, subtree: true });
  });
})();
