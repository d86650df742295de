
const box = document.getElementById("find");
const cards = [...document.querySelectorAll(".segment")];
box.parentElement.hidden = cards.length < 2;
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/);
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every((word) => text.includes(word));
  }
  document.getElementById("nothing").hidden = cards.some((card) => !card.hidden);
});
