// Which layers an image has, of which stage, and why the others are not there.

/** @typedef {{key: string, name: string, stage: string, title: string, there: boolean, why: string | null, command?: string}} Offer `command` makes it */

/** Drawn around parts of the picture, each by itself; of the others one at a time lies over the whole. */
export const LINES = ['mask', 'truth', 'box', 'outside']

/** The layer of the server, the name here, the title. @type {[string, string, string][]} */
const KNOWN = [['labels', 'labels', 'Labels'], ['regions', 'regions', 'Regions'], ['nodes', 'tree', 'Tree'], ['eigenvectors', 'eigenvector', 'Eigenvector'],
  ['eigenvectors', 'affinity', 'Affinity'], ['mask', 'mask', 'Mask'], ['truth', 'truth', 'Truth'], ['mask', 'box', 'Box'], ['outside', 'outside', 'Left out of the graph']]
/** What makes a layer, in the same OUT. @type {Record<string, string>} */
const COMMANDS = { labels: 'simsam semantic IMAGES OUT', regions: 'simsam semantic IMAGES OUT', tree: 'simsam hierarchy IMAGES OUT', mask: 'simsam segment IMAGES OUT', box: 'simsam segment IMAGES OUT',
  eigenvector: 'simsam segment IMAGES OUT --eigenvectors fp16', affinity: 'simsam segment IMAGES OUT --eigenvectors fp16', outside: 'simsam segment IMAGES OUT' }
/** Of these one is enough, whatever stages there are. */
const ONCE = ['eigenvector', 'affinity', 'tree']

/** @typedef {{on: boolean, why: string | null, stages: string[]}} Live what can be asked while one waits, and of which stages */

/**
 * By name; of several stages the first keeps the plain name, the others add theirs.
 * @param {any[]} stages what `api/images` says of the image in each, with `stage`
 * @param {Live} live
 * @returns {Offer[]}
 */
export function offered(stages, live) {
  /** @param {[string, string, string]} known @returns {Offer[]} */
  const offers = ([layer, name, title]) => {
    const all = stages.map((stage) => ({ stage: stage.stage, ...stage.layers.find((/** @type {any} */ each) => each.name === layer) }))
    const there = all.filter((each) => each.there)
    if (!there.length) return [{ key: name, name, title, stage: all[0].stage, there: false, ...withReason(name, all[0].why) }]
    const kept = ONCE.includes(name) ? there.slice(0, 1) : there
    return kept.map((each, i) => ({ key: i ? `${name}@${each.stage}` : name, name, title, stage: each.stage, there: true, why: null }))
  }
  const found = KNOWN.flatMap(offers)
  found.splice(found.findLastIndex((each) => each.name === 'affinity') + 1, 0, cosine(stages, live))
  return found
}

/** The stored features answer for every stage, else each for itself. @param {any[]} stages @param {Live} live @returns {Offer} */
function cosine(stages, live) {
  const stored = live.stages.includes('features') ? 'features' : null
  const good = stages.find((each) => !each.error && (stored || live.stages.includes(each.stage)))
  const why = !live.on ? live.why : good ? null : stages[0].error ? 'the stage failed on this image' : 'no stage of this image has features of patches, or a network that gives them'
  return { key: 'cosine', name: 'cosine', title: 'Cosine (live)', stage: stored ?? good?.stage ?? stages[0].stage, there: why === null, why }
}

/** @param {string} name @param {string | null} why */
function withReason(name, why) {
  // another run of the command helps only where there was none
  const command = why && /\bmakes?\b|\bcuts\b|alone stores|eigenvectors none|before they were/.test(why) ? COMMANDS[name] : undefined
  return { why: name === 'affinity' && why && !why.includes('failed') ? `no eigenvectors are stored: ${why}` : why ?? 'there is none', command }
}
