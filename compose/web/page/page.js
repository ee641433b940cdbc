import { classify } from "./classify.js";

const element = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1 });
let asked = 0;

function show(classes) {
  const best = Math.max(...classes.map(({ score }) => score)) || 1;
  element("classes").replaceChildren(
    ...classes.map(({ name, score }) => {
      const item = document.createElement("li");
      const label = document.createElement("span");
      label.textContent = `${name.replaceAll("_", " ")}: ${percent.format(score)}`;
      const bar = document.createElement("meter");
      bar.max = best;
      bar.value = score;
      bar.setAttribute("aria-hidden", "true"); // the text beside it says the same
      item.append(label, bar);
      return item;
    }),
  );
  element("result").hidden = false;
}

async function choose(picture) {
  if (!picture) return;
  asked += 1;
  const mine = asked;
  const preview = element("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(picture);
  preview.hidden = false;
  element("result").hidden = true;
  element("status").textContent = "Asking the model …";
  try {
    const classes = await classify(picture);
    if (mine !== asked) return; // another picture was chosen meanwhile
    show(classes);
    element("status").textContent = `${classes.length} classes, best first.`;
  } catch (error) {
    if (mine === asked) element("status").textContent = error.message;
  }
}

element("form").addEventListener("submit", (event) => event.preventDefault());
element("picture").addEventListener("change", (event) => choose(event.target.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  choose(event.dataTransfer.files[0]);
});
