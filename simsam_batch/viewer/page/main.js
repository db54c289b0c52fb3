// The page begins: the run, the screens, and which one the address asks for.

import { arrived, here, to } from './address.js'
import { ask, tell } from './asking.js'
import { fill, h, name, say, shown } from './dom.js'
import { bind, everywhere, listen, showKeys } from './keys.js'
import { failed, none } from './states.js'
import { browse } from './browse.js'
import { clusters } from './clusters.js'
import { compare } from './compare.js'
import { image } from './image.js'
import { pairs } from './pairs.js'
import { run } from './run.js'

/**
 * What every screen is given.
 * @typedef {object} View
 * @property {HTMLElement} place to fill
 * @property {any} about what `api/run` says
 * @property {import('./address.js').Address} address
 * @property {AbortSignal} signal over as soon as another screen is shown
 * @property {(keys: import('./keys.js').Keys) => void} keys of the screen
 * @property {(title: string) => void} title of the page
 */

/**
 * @typedef {object} Screen
 * @property {string} title in the navigation; empty: not there
 * @property {(about: any) => boolean} fits whether the run has something for it
 * @property {(view: View) => void | Promise<void>} show fills the place
 */

/** @type {Record<string, Screen>} */
const SCREENS = { browse, image, clusters, pairs, compare, run }

const STATUS_MS = 5000
/** Of a run that is not going on. */
const STILL_MS = 30000
const main = /** @type {HTMLElement} */ (document.getElementById('main'))
/** @type {any} */
let about = null
let shownNow = new AbortController()
let first = true

async function start() {
  listen()
  everywhere({ '?': { does: 'what the keys do', run: showKeys }, R: { does: 'show what is new in the run', run: reopen } })
  button('help').addEventListener('click', showKeys)
  button('fresh').addEventListener('click', reopen)
  try {
    about = await ask('api/run')
  } catch (error) {
    fill(main, failed('The run', error, () => location.reload()))
    return
  }
  window.addEventListener('hashchange', show)
  header()
  show()
  status()
}

/** @param {string} id */
function button(id) {
  return /** @type {HTMLButtonElement} */ (document.getElementById(id))
}

function header() {
  const where = /** @type {HTMLElement} */ (document.getElementById('where'))
  fill(where, name(about.url, 60), about.other ? [' beside ', name(about.other.url, 60)] : null)
}

function show() {
  if (!about) return
  shownNow.abort()
  shownNow = new AbortController()
  arrived()
  const address = here()
  const known = Object.entries(SCREENS).filter(([, screen]) => screen.fits(about))
  const screen = address.screen || known[0][0]
  fill(/** @type {HTMLElement} */ (document.getElementById('screens')),
    known.filter(([, each]) => each.title).map(([of, each]) =>
      h('li', {}, h('a', { href: to(of), 'aria-current': of === screen ? 'page' : null }, each.title))))
  bind({})
  const place = h('div', { class: `screen ${screen}` })
  fill(main, place)
  title(SCREENS[screen]?.title ?? '')
  if (!SCREENS[screen]) {
    fill(place, h('h1', {}, 'No such screen'), none(`The page has no screen of the name ${screen}.`), h('p', {}, h('a', { href: '#/' }, 'To the first one')))
  } else {
    const view = { place, about, address: { ...address, screen }, signal: shownNow.signal, keys: bind, title }
    Promise.resolve(SCREENS[screen].show(view)).catch((error) => {
      if (error.name !== 'AbortError') fill(place, failed('The screen', error, show))
    })
  }
  // whoever came by a link goes on in what it led to
  if (!first) {
    main.focus({ preventScroll: true })
    window.scrollTo(0, 0)
  }
  first = false
}

/** @param {string} text */
function title(text) {
  document.title = text ? `${text} · simsam view` : 'simsam view'
}

let next = 0

/** Say what is new, now and from then on. */
async function status() {
  clearTimeout(next)
  next = setTimeout(status, STATUS_MS)
  if (document.hidden) return
  let found
  try { found = await ask('api/status') } catch { return }
  const stages = Object.entries(found.stages)
  const going = stages.filter(([, stage]) => stage.pending)
  const newer = stages.reduce((sum, [, stage]) => sum + Math.max(0, stage.newer_rows), 0)
  const fresh = button('fresh')
  const begun = found.new_stages.length
  const said = begun ? `${found.new_stages.join(', ')} has begun` : newer ? `${shown(newer)} more` : ''
  clearTimeout(next)
  next = setTimeout(status, going.length ? STATUS_MS : STILL_MS)
  if (said && fresh.hidden) say(`${said}: press R to show them`)
  fresh.hidden = !said
  fill(fresh, said, ' ', h('kbd', {}, 'R'))
  const progress = /** @type {HTMLElement} */ (document.getElementById('progress'))
  fill(progress, going.map(([of, stage]) => h('span', { class: 'badge going' }, `${of}: ${shown(stage.done)} of ${shown(stage.images)}`)))
}

/** Show the run as it is now. */
async function reopen() {
  try {
    await tell('POST', 'api/reopen')
    about = await ask('api/run')
  } catch (error) {
    fill(main, failed('The run', error, reopen))
    return
  }
  header()
  show()
  status()
  say('The run is shown as it is now')
}

start()
