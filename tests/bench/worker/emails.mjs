// The mails: Handlebars templates, compiled once, chosen by the notification's type; the layout is a partial.
//
// What they say is what plugins/transactional-templates says. Their styles stand in the tags already, because no host
// puts them there.

import Handlebars from "handlebars";
import { readFileSync } from "node:fs";

const read = (name) => readFileSync(new URL(`templates/${name}.hbs`, import.meta.url), "utf8");
Handlebars.registerPartial("layout", read("layout.html"));
// A text part is not HTML: nothing is escaped in it.
const compile = (name) => ({
  html: Handlebars.compile(read(`${name}.html`)),
  text: Handlebars.compile(read(`${name}.txt`), { noEscape: true }),
});
const templates = { welcome: compile("welcome"), default: compile("default") };

const product = process.env.PRODUCT_NAME ?? "Sandpost";

// Subject and the line that inboxes show beside it.
const headlines = {
  welcome: ({ name, portuguese }) =>
    portuguese
      ? { subject: `Boas-vindas ao ${product}!`, preheader: `Sua conta está pronta, ${name}.` }
      : { subject: `Welcome to ${product}!`, preheader: `Your account is ready, ${name}.` },
  default: ({ portuguese }) =>
    portuguese
      ? { subject: "Notificação", preheader: "Você tem uma nova notificação" }
      : { subject: "Notification", preheader: "You have a new notification" },
};

export function getEmailTemplate(type, locale, data) {
  const known = type in templates ? type : "default";
  const portuguese = locale?.startsWith("pt") ?? false;
  const page = { ...data, product, portuguese, language: portuguese ? "pt" : "en" };
  const headline = headlines[known](page);
  const { html, text } = templates[known];
  return { subject: headline.subject, html: html({ ...page, ...headline }), text: text(page) };
}
