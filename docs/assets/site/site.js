// Regions that scroll can be reached by keyboards. Generated pages have no link to a source that could be edited.
// The table of checkpoints can be sorted by its headers and filtered. Without scripts it is a plain table.

const BACKBONE = "Backbone";

function text(row, column) {
  return row.cells[column]?.textContent.trim() ?? "";
}

function number(string) {
  const value = parseFloat(string);
  return Number.isNaN(value) ? null : value;
}

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  if (x !== null && y !== null) return x - y;
  return a.localeCompare(b, "en", { numeric: true });
}

function sortable(table, headers) {
  const body = table.tBodies[0];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const numeric = [...body.rows].some((row) => /^[\d.]+( M)?$/.test(text(row, column)));
      const first = numeric ? "descending" : "ascending"; // the best number first
      const other = numeric ? "ascending" : "descending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      headers.forEach((h) => h.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [text(a, column), text(b, column)];
        if (!x || !y) return !x - !y; // rows without a number come last in both orders
        return sign * compare(x, y);
      });
      body.append(...rows);
    });
  });
}

function choice(label, values) {
  const wrapper = document.createElement("label");
  const select = document.createElement("select");
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  wrapper.append(label, select);
  return [wrapper, select];
}

function filterable(table, titles) {
  const rows = [...table.tBodies[0].rows];
  const values = (read) => [...new Set(rows.map(read))].filter(Boolean).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const readers = { [BACKBONE]: (row) => text(row, 0).replace(/^pspnet_/, "").split(".")[0] };
  for (const title of ["Dataset", "Licence", "Weights"]) readers[title] = (row) => text(row, titles.indexOf(title));

  const bar = document.createElement("div");
  bar.className = "filter";
  const search = document.createElement("input");
  search.type = "search";
  const searchLabel = document.createElement("label");
  searchLabel.append("Search", search);
  bar.append(searchLabel);
  const selects = ["Weights", "Dataset", BACKBONE, "Licence"].map((title) => {
    const [label, select] = choice(title, values(readers[title]));
    bar.append(label);
    return [readers[title], select];
  });
  const least = document.createElement("input");
  least.type = "number";
  least.min = 0;
  least.max = 100;
  const leastLabel = document.createElement("label");
  leastLabel.append("mIoU from", least);
  const most = least.cloneNode();
  most.max = 1000;
  const mostLabel = document.createElement("label");
  mostLabel.append("Parameters up to (M)", most);
  const count = document.createElement("output");
  bar.append(leastLabel, mostLabel, count);

  const best = (row) => Math.max(...["mIoU", "multi"].map((t) => number(text(row, titles.indexOf(t))) ?? -1));
  function apply() {
    let visible = 0;
    for (const row of rows) {
      const keep =
        row.textContent.toLowerCase().includes(search.value.toLowerCase()) &&
        selects.every(([read, select]) => !select.value || read(row) === select.value) &&
        (!least.value || best(row) >= Number(least.value)) &&
        (!most.value || number(text(row, titles.indexOf("Parameters"))) <= Number(most.value));
      row.hidden = !keep;
      visible += keep;
    }
    count.textContent = `${visible} of ${rows.length} checkpoints`;
  }
  bar.addEventListener("input", apply);
  apply();
  const wrapper = table.closest(".md-typeset__scrollwrap") ?? table;
  wrapper.before(bar);
  table.classList.add("checkpoints");
}

// Browsers break lines behind hyphens, and `--split` is not to be read as two words.
function keepWordsWhole(code) {
  if (code.children.length) return;
  const parts = code.textContent.split(/(\s+)/).map((word) => {
    if (!word.includes("-") || word.length > 30) return word;
    const whole = document.createElement("span");
    whole.className = "whole";
    whole.textContent = word;
    return whole;
  });
  code.replaceChildren(...parts);
}

function enhance() {
  if (/\/(models|reference\/(api|checkpoints)|changes)[^/]*\//.test(location.pathname)) {
    document.querySelectorAll(".md-content__button").forEach((button) => button.remove());
  }
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap, article pre > code")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
  document.querySelectorAll("article :not(pre) > code").forEach(keepWordsWhole);
  for (const table of document.querySelectorAll("article table")) {
    const headers = [...(table.tHead?.rows[0]?.cells ?? [])];
    const titles = headers.map((header) => header.textContent.trim());
    if (!titles.includes("Licence") || !titles.includes("Weights") || table.tBodies[0].rows.length < 10) continue;
    filterable(table, titles);
    sortable(table, headers);
  }
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", enhance);
else enhance();
