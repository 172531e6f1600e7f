// Five products for a photo, with JDBC: java -cp postgresql.jar Five.java jdbc:postgresql://host:port/db?user=me PHOTO
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.Locale;

public class Five {
    public static void main(String[] args) throws Exception {
        byte[] image = Files.readAllBytes(Path.of(args[1]));
        String five = "SELECT product, distance FROM nearest_products((SELECT embed_query(?)), 5)";
        try (Connection connection = DriverManager.getConnection(args[0]);
             PreparedStatement statement = connection.prepareStatement(five)) {
            statement.setBytes(1, image);
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    System.out.printf(Locale.ROOT, "%s %.3f%n", rows.getString(1), rows.getDouble(2));
                }
            }
        }
    }
}
