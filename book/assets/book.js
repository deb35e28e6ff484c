// Dotted words say what they mean on hover, focus and tap; figures enlarge on click; tables that are cut off show it.
"use strict";

(() => {
  const bubble = document.createElement("div");
  bubble.className = "term-bubble";
  bubble.id = "term-bubble";
  bubble.setAttribute("role", "tooltip");
  bubble.hidden = true;
  let open = null;

  function meaning(link) {
    return (window.GLOSSARY || {})[decodeURIComponent(link.hash.slice(1))];
  }

  function show(link) {
    const text = meaning(link);
    if (!text) return;
    open = link;
    bubble.textContent = text;
    bubble.hidden = false;
    link.setAttribute("aria-describedby", bubble.id);
    const at = link.getBoundingClientRect(), width = Math.min(352, document.documentElement.clientWidth - 16);
    bubble.style.width = `${width}px`;
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8));
    bubble.style.left = `${left + scrollX}px`;
    const below = at.bottom + 6, room = innerHeight - below;
    bubble.style.top = `${(room > bubble.offsetHeight || at.top < bubble.offsetHeight ? below : at.top - bubble.offsetHeight - 6) + scrollY}px`;
  }

  function hide() {
    if (open) open.removeAttribute("aria-describedby");
    open = null;
    bubble.hidden = true;
  }

  function terms() {
    document.body.append(bubble);
    for (const link of document.querySelectorAll("a[href*='#term-']:has(.std-term)")) {
      link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(link));
      link.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
      link.addEventListener("focus", () => show(link));
      link.addEventListener("blur", hide);
      // The first tap explains, the second follows the link.
      let touched = false;
      link.addEventListener("pointerdown", (event) => (touched = event.pointerType === "touch" && open !== link));
      link.addEventListener("click", (event) => {
        if (!touched || !meaning(link)) return;
        event.preventDefault();
        show(link);
        touched = false;
      });
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("pointerdown", (event) => open && !open.contains(event.target) && hide());
  }

  function pictures() {
    const large = document.createElement("dialog");
    large.className = "enlarged";
    large.addEventListener("click", () => large.close());
    document.body.append(large);
    for (const image of document.querySelectorAll(".bd-article .cell_output img, .bd-article figure img")) {
      if (image.closest("a")) continue;
      image.tabIndex = 0;
      image.setAttribute("role", "button");
      image.setAttribute("aria-label", `${image.alt} (enlarge)`);
      const enlarge = () => {
        const copy = image.cloneNode();
        copy.removeAttribute("style");
        copy.removeAttribute("role");
        copy.removeAttribute("tabindex");
        large.replaceChildren(copy);
        large.showModal();
      };
      image.addEventListener("click", enlarge);
      image.addEventListener("keydown", (event) => event.key === "Enter" && enlarge());
    }
  }

  // The theme gives the arrows that unfold the sidebar no name.
  function unfold() {
    for (const arrow of document.querySelectorAll("summary:not([aria-label])"))
      if (!arrow.textContent.trim()) arrow.setAttribute("aria-label", "Pages below this one");
  }

  const SCROLLS = ".bd-article :is(.pst-scrollable-table-container, .catalogue, .cell_output .text_html, div.math)";

  // A phone shows no scroll bars: what has more to the right fades there.
  function fade() {
    const mark = (box) => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 4);
    const watch = new ResizeObserver((seen) => seen.forEach(({ target }) => mark(target.closest(SCROLLS))));
    for (const box of document.querySelectorAll(SCROLLS)) {
      box.addEventListener("scroll", () => mark(box), { passive: true });
      watch.observe(box);
      if (box.firstElementChild) watch.observe(box.firstElementChild); // what is in it may change alone
    }
  }

  const begin = () => {
    fade();
    unfold();
    terms();
    pictures();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
