// Elements without markup: texts are texts, whatever they hold, and attributes are set one by one.

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag its name
 * @param {Record<string, any>} [attributes] `class`, `href`, ...; a function under `onclick` etc. listens; true is an
 *   attribute without value, and false, null and undefined none; `style` is a mapping of properties
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  set(element, attributes)
  element.append(...nodes(children))
  return element
}

/**
 * An element of SVG.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = /** @type {SVGElement} */ (document.createElementNS('http://www.w3.org/2000/svg', tag))
  set(element, attributes)
  element.append(...nodes(children))
  return element
}

/** @param {HTMLElement | SVGElement} element @param {Record<string, any>} attributes */
function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue
    if (typeof value === 'function') element.addEventListener(name.slice(2), value)
    else if (name === 'style') for (const [property, of] of Object.entries(value)) element.style.setProperty(property, of)
    else element.setAttribute(name, value === true ? '' : String(value))
  }
}

/** @param {(Child | Child[])[]} children @returns {(Node | string)[]} */
function nodes(children) {
  return /** @type {Child[]} */ (children.flat(Infinity)).flatMap((child) =>
    child === null || child === undefined || child === false ? [] : [child instanceof Node ? child : String(child)])
}

/**
 * Put these in place of what an element holds.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children))
}

/**
 * A name that strangers chose: it turns no direction of what stands beside it, and its middle is left out if it is long.
 * @param {string} text
 * @param {number} [most] characters
 */
export function name(text, most = 1000) {
  const letters = Array.from(text)
  const half = Math.floor((most - 1) / 2)
  const short = letters.length > most ? `${letters.slice(0, half).join('')}…${letters.slice(-half).join('')}` : text
  return h('bdi', { title: short === text ? null : text }, short)
}

/** A command, whose flags do not break at their hyphens. @param {string} text */
export function command(text) {
  return h('code', {}, text.split(/(?<= )/).map((word) => (word.startsWith('--') ? h('span', { class: 'flag-word' }, word) : word)))
}

/**
 * What may be wider than its place, such as a table: it scrolls by itself, by the keyboard too.
 * @param {string} label what it is
 * @param {...(Child | Child[])} children
 */
export function wide(label, ...children) {
  return h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': label }, ...children)
}

/**
 * Who has the focus in a place, for when all in it is made anew: by its id, or by where it is in the nearest part with one.
 * @param {Element} place
 * @returns {() => void} gives the focus back
 */
export function focusKept(place) {
  const active = document.activeElement
  const part = active && place.contains(active) ? active.closest('[id]') : null
  if (!part || !place.contains(part)) return () => {}
  const at = [...part.querySelectorAll(FOCUSABLE)].indexOf(/** @type {Element} */ (active))
  return () => {
    const found = document.getElementById(part.id)
    const next = at < 0 ? found : found?.querySelectorAll(FOCUSABLE)[at]
    if (document.activeElement === document.body) /** @type {HTMLElement | undefined} */ (next)?.focus({ preventScroll: true })
  }
}

const FOCUSABLE = 'a[href], button, input, select, summary'

/** A number for people, its minus as it is printed. @param {number | null | undefined} value @param {number} [digits] after the point */
export function shown(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–'
  if (Number.isInteger(value)) return printed(value.toLocaleString('en'))
  const small = value !== 0 && Math.abs(value) < 10 ** -digits
  return printed(small ? value.toExponential(1) : value.toFixed(digits))
}

/** A difference for people: its sign is told either way. @param {number | null | undefined} value */
export function signed(value) {
  return value && value > 0 ? `+${shown(value)}` : shown(value)
}

/** A number in digits with the sign of minus in place of hyphens. @param {string | number} digits */
export function printed(digits) {
  return String(digits).replaceAll('-', '−')
}

/** Say something to those who do not look. @param {string} text */
export function say(text) {
  const place = /** @type {HTMLElement} */ (document.getElementById('said'))
  place.textContent = text
}
