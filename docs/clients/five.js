// Five products for a photo, with pg: node five.js URL PHOTO
const { readFileSync } = require('node:fs');
const { Client } = require('pg');

async function main([url, photo]) {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const image = readFileSync(photo); // a Buffer is sent as bytea
    const { rows } = await client.query('SELECT product, distance FROM nearest_products((SELECT embed_query($1)), 5)', [image]);
    for (const { product, distance } of rows) console.log(product, distance.toFixed(3));
  } finally {
    await client.end();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
