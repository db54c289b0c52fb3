// One image: why its mask is as it is, walked through by layers, eigenvectors, affinity and tree.

import { go, here, stay, to } from './address.js'
import { ask } from './asking.js'
import { fill, h, name, shown } from './dom.js'
import { columns, settings } from './facts.js'
import { flagBar, flagKeys } from './flagging.js'
import { STEPS } from './controls.js'
import { ImagePane } from './pane.js'
import { galleryOf } from './regions.js'
import { RestyledPane } from './restyled.js'
import { failed, loading, none } from './states.js'

/** @type {import('./main.js').Screen} */
export const image = { title: '', fits: (about) => about.stages.some((/** @type {any} */ stage) => stage.of_images), show }

const SAVED_MS = 120
const KINDS = ['objects', 'labels', 'trees', 'restyled']
const FIRST = /** @type {Record<string, string>} */ ({ objects: 'mask', labels: 'labels', trees: 'tree' })

/** @param {import('./main.js').View} view */
async function show(view) {
  const { place, address, signal } = view
  const { query } = address
  const run = query.run === 'b' ? 'b' : 'a'
  const about = run === 'b' ? view.about.other ?? view.about : view.about
  const possible = about.stages.filter((/** @type {any} */ each) => each.of_images)
  const stage = possible.find((/** @type {any} */ each) => each.name === query.stage) ?? possible[0]
  const row = Number(address.path[0])
  if (!stage || !Number.isInteger(row) || row < 0) { fill(place, none('There is no such image. '), h('a', { href: to('browse') }, 'To all images')); return }
  fill(place, h('div', { class: 'state', 'aria-busy': 'true' }, loading('the image')))
  const asked = (/** @type {any} */ each) => ask(`api/images/${row}`, { stage: each.name, run }, signal).then((found) => ({ ...found, stage: each.name, kind: each.kind, of: each }))
  const others = possible.filter((/** @type {any} */ each) => each !== stage && KINDS.includes(each.kind)).map((/** @type {any} */ each) => asked(each).catch(() => null))
  let found
  try { found = await asked(stage) } catch (error) {
    if (/** @type {Error} */ (error).name !== 'AbortError')
      fill(place, h('h1', {}, `Image ${row}`), failed(`Row ${row} of ${stage.name}`, error, () => show(view)), h('p', {}, h('a', { href: list(stage.name, query) }, 'To the list')))
    return
  }
  const stages = [found, ...(await Promise.all(others)).filter(Boolean)]
  if (signal.aborted) return
  view.title(found.id)
  const looks = looksOf(query, stage.kind)
  /** @type {Record<string, string>} */
  const listed = { stage: stage.name, q: query.q ?? '', sort: query.sort ?? '', desc: query.desc ?? '', run: run === 'b' ? 'b' : '', regions: query.regions ?? '' }
  /** @type {{previous: number | null, next: number | null}} */
  const near = { previous: null, next: null }
  const steps = h('nav', { class: 'steps', 'aria-label': 'Images of the list' })
  let timer = 0
  const save = () => {
    if (signal.aborted) return
    stay(to('image', [row], { ...listed, ...looked(true) }))
    neighbours()
  }
  const saveSoon = () => { clearTimeout(timer); timer = setTimeout(save, SAVED_MS) }
  signal.addEventListener('abort', () => clearTimeout(timer))

  const size = found.size ?? stages.find((each) => each.size)?.size
  const after = size && found.pictures.length ? new RestyledPane({ about: { ...found, size }, stages, query, run, signal, changed: saveSoon }) : null
  const looked = (/** @type {boolean} */ whole) => (after ? after.written(whole) : written(looks, whole))
  const pane = size && !after ? new ImagePane({ about: { ...found, size, grid: found.grid ?? stages.find((each) => each.grid)?.grid }, stages, looks, live: about.live, run, signal, changed: saveSoon,
    near: (of) => ask('api/neighbours', { ...listed, desc: listed.desc ? 1 : '', row: of }, signal) }) : null
  const panel = after ?? pane
  const flags = h('div', { class: 'flags' })
  /** @type {any} */
  let flag = null
  const changed = (/** @type {number[]} */ rows, /** @type {any} */ now) => { if (rows.includes(row)) { flag = now; showFlags() } }
  const showFlags = () => { if (!flags.contains(document.activeElement)) fill(flags, flagBar(view, stage.name, [row], flag, changed, run)) }

  fill(place,
    h('div', { class: 'head' }, h('h1', {}, name(found.id, 90)), steps,
      found.status && found.status !== 'ok' ? h('span', { class: `badge ${found.error ? 'fault' : 'going'}` }, found.status) : null),
    found.error ? h('div', { class: 'state fault', role: 'alert' }, h('p', {}, h('strong', {}, `${stage.name} failed on this image: ${found.error.type}. `), name(found.error.text, 600))) : null,
    panel ? h('div', { class: 'looking', style: { '--aspect': String(size[0] / size[1]) } }, panel.picture, h('div', { class: 'beside' }, panel.side1, flags)) : none('The image could not be read, so that there is no picture of it. Failed images are never decoded again.'),
    panel ? null : flags,
    h('details', { class: 'facts', open: true }, h('summary', {}, `What ${stage.name} says of it`), columns(found, stage)),
    stages.slice(1).map((each) => h('details', { class: 'facts' }, h('summary', {}, `What ${each.stage} says of it`), h('p', {}, h('a', { href: to('image', [row], { stage: each.stage }) }, `Open it as an image of ${each.stage}`)), columns(each, each.of))),
    h('details', { class: 'facts' }, h('summary', {}, `Settings of ${stage.name}`), settings(stage)))
  panel?.start()
  showFlags()
  ask('api/flags', { stage: stage.name, run, row }, signal).then((answer) => {
    const of = answer.flags.filter((/** @type {any} */ each) => each.row === row && each.verdict)
    flag = of.find((/** @type {any} */ each) => each.reviewer === view.about.flags.reviewer) ?? of.at(-1) ?? null
    showFlags()
  }, () => { /* the bar can still be used; what it cannot write it says */ })

  neighbours()
  ask('api/neighbours', { ...listed, desc: listed.desc ? 1 : '', row }, signal).then((answer) => { Object.assign(near, answer); neighbours() },
    (error) => { if (error.name !== 'AbortError') fill(steps, h('a', { href: list(stage.name, query) }, 'To the list'), ' ', h('span', { class: 'note' }, error.message)) })

  function neighbours() {
    const more = { ...listed, ...looked(false) }
    const link = (/** @type {number | null} */ to_, /** @type {string} */ text, /** @type {string} */ key) =>
      (to_ === null ? h('span', { class: 'muted' }, text) : h('a', { href: to('image', [to_], more) }, text, ' ', h('kbd', {}, key)))
    const { place: at, total } = /** @type {any} */ (near)
    fill(steps, h('a', { href: list(stage.name, query) }, 'List ', h('kbd', {}, 'Esc')), link(near.previous, 'Previous', 'p'), link(near.next, 'Next', 'n'),
      total === undefined ? null : h('span', { class: 'note' }, at === null || at === undefined ? `not in this list of ${shown(total)}` : `${shown(at + 1)} of ${shown(total)}`))
  }

  const next = (/** @type {'previous' | 'next'} */ which) => () => {
    const at = near[which]
    if (at !== null) go(to('image', [at], { ...listed, ...looked(false) }))
  }
  view.keys({
    n: { does: 'next image of the list', run: next('next') },
    p: { does: 'previous image of the list', run: next('previous') },
    ...(after ? after.keys() : ofPane()),
    ...flagKeys(view, () => ({ stage: stage.name, run, rows: [row], flag, changed })),
    Escape: { does: 'back to the list', run: () => go(list(stage.name, here().query)) },
  })

  /** @returns {import('./keys.js').Keys} */
  function ofPane() {
    const on = (/** @type {(pane: ImagePane, event: KeyboardEvent) => void} */ does) => (/** @type {KeyboardEvent} */ event) => { if (pane) does(pane, event) }
    return {
      m: { does: 'mask', run: on((of) => of.line('mask')) },
      t: { does: 'truth', run: on((of) => of.line('truth')) },
      b: { does: 'box', run: on((of) => of.line('box')) },
      l: { does: 'labels', run: on((of) => of.area('labels')) },
      a: { does: 'affinity of a patch: arrows move it while the picture has the focus, Shift by 5, Enter pins it', run: on((of) => of.area('affinity')) },
      c: { does: 'cosine of a patch, in the same way, with --live', run: on((of) => of.area('cosine')) },
      o: { does: 'find the patch in the next image of the list, with --live', run: on((of) => of.find('next')) },
      O: { does: 'find the patch in the one before', run: on((of) => of.find('previous')) },
      '[': { does: 'eigenvector before, or one level up the tree', run: on((of) => of.step(-1)) },
      ']': { does: 'next eigenvector, or one level down the tree', run: on((of) => of.step(1)) },
      '+ =': { does: 'zoom in', run: on((of) => of.view.zoom(1.5)) },
      '-': { does: 'zoom out', run: on((of) => of.view.zoom(1 / 1.5)) },
      0: { does: 'whole image', run: on((of) => of.view.fit()) },
    }
  }
}

/** The list that an image was opened from. @param {string} stage @param {Record<string, string>} query */
function list(stage, query) {
  return query.regions ? galleryOf(stage, query.regions) : to('browse', [], { stage, q: query.q, sort: query.sort, desc: query.desc })
}

/** @param {Record<string, string>} query @param {string} kind @returns {import('./pane.js').Looks} */
function looksOf(query, kind) {
  const whole = (/** @type {string} */ of, /** @type {number} */ otherwise, least = 0) => {
    const value = Number(query[of])
    return query[of] !== undefined && query[of] !== '' && Number.isInteger(value) && value >= least ? value : otherwise
  }
  const asked = query.layer === undefined ? [FIRST[kind] ?? ''] : query.layer.split(',')
  const lines = asked.filter((each) => ['mask', 'truth', 'box', 'outside'].includes(each.split('@')[0]))
  const steps = whole('t', 1)
  return {
    area: asked.find((each) => !lines.includes(each) && each !== 'photo') ?? '', lines: new Set(lines), k: whole('k', 1), t: STEPS.includes(steps) ? steps : 1, vectors: whole('vectors', 0),
    node: query.node ? whole('node', 0) : null, patch: query.patch ? whole('patch', 0) : null, depth: whole('depth', 3),
    opacity: whole('opacity', 80) / 100, smooth: query.smooth === '1', style: ['fill', 'cut'].includes(query.style) ? query.style : 'outline', truth: query.truth === 'fill' ? 'fill' : 'outline', drawing: whole('drawing', 0),
    other: query.other ? whole('other', 0) : null,
  }
}

/** What the address holds of how an image is looked at. @param {import('./pane.js').Looks} looks @param {boolean} whole with what is of this image alone */
function written(looks, whole) {
  return {
    layer: [looks.area, ...looks.lines].filter(Boolean).join(',') || 'photo', k: looks.k === 1 ? '' : looks.k, t: looks.t === 1 ? '' : looks.t, vectors: looks.vectors || '',
    depth: looks.depth === 3 ? '' : looks.depth, opacity: looks.opacity === 0.8 ? '' : Math.round(100 * looks.opacity), smooth: looks.smooth ? 1 : '', style: looks.style === 'outline' ? '' : looks.style,
    truth: looks.truth === 'outline' ? '' : looks.truth, ...(whole ? { node: looks.node, patch: looks.patch, drawing: looks.drawing || '', other: looks.other } : {}),
  }
}
